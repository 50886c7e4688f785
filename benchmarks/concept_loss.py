"""Memory and time of CatLIP's classifier with its loss: ours in chunks, against the same in plain autograd.

    python benchmarks/concept_loss.py [--batch 2048] [--concepts 24320]

On a CPU, each in a process of its own, forward and backward. Prints one line of JSON: the memory that a process took
at most above what weights, features and their gradients need, in bytes and in logits of the whole batch (``B x V``
fp32 tensors), the seconds of the faster of two rounds, and the greatest relative difference of the gradients.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.nn.functional import linear

from orchestrator.objectives.concept_classifier import ConceptClassifier, multi_label_loss

FEATURES, ROUNDS = 768, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--concepts", type=int, default=24320)
    parser.add_argument("--form", choices=["chunks", "plain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.form:
        print(json.dumps(measure(arguments.form, arguments.batch, arguments.concepts)))
        return
    sizes = ["--batch", str(arguments.batch), "--concepts", str(arguments.concepts)]
    forms = {}
    for form in ("chunks", "plain"):
        command = [sys.executable, __file__, *sizes, "--form", form]
        forms[form] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    difference = gradient_difference(min(arguments.batch, 128), arguments.concepts)
    print(json.dumps({"batch": arguments.batch, "concepts": arguments.concepts, **forms, "difference": difference}))


def measure(form: str, batch: int, num_concepts: int) -> dict[str, float]:
    """One form in this process, which must have done nothing else."""
    classifier, pooled, concepts = inputs(batch, num_concepts)
    for tensor in (*classifier.parameters(), pooled):
        tensor.grad = torch.ones_like(tensor)  # zeros would take no memory yet
    before = peak_bytes()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        loss(form, classifier, pooled, concepts).backward()
        seconds.append(time.perf_counter() - start)
    extra = peak_bytes() - before
    step_s = round(min(seconds), 3)
    return {"extra_bytes": extra, "extra_logits": round(extra / (4 * batch * num_concepts), 2), "step_s": step_s}


def gradient_difference(batch: int, num_concepts: int) -> float:
    classifier, pooled, concepts = inputs(batch, num_concepts)
    leaves = (*classifier.parameters(), pooled)
    forms = [torch.autograd.grad(loss(form, classifier, pooled, concepts), leaves) for form in ("chunks", "plain")]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*forms, strict=True))


def inputs(batch: int, num_concepts: int) -> tuple[ConceptClassifier, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    classifier = ConceptClassifier(FEATURES, num_concepts, generator)
    pooled = torch.randn(batch, FEATURES, generator=generator, requires_grad=True)
    return classifier, pooled, torch.randint(0, num_concepts, (batch, 8), generator=generator)


def loss(form: str, classifier: ConceptClassifier, pooled: Tensor, concepts: Tensor) -> Tensor:
    if form == "chunks":
        return classifier(pooled, concepts)[0]  # type: ignore[no-any-return]
    return multi_label_loss(linear(pooled, classifier.weight, classifier.bias), concepts)


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
