"""What the start of CatLIP's classifier bias does to the first steps: zero (corenet's) against the log prior.

    python benchmarks/catlip_bias.py [--steps 60] [--concepts 24320]

The same weights, images and captions for both, no Ray. Two sets of captions: those of the embedded scenes, and labels
drawn from a Zipf distribution over as many concepts as the paper's, where zero is further from the frequencies. Prints
one line of JSON for each start: the loss, what is left of it above a model that knows only the frequencies
(``over_prior``), and the norm of the gradient before clipping, by step.
"""

import argparse
import json
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.data.scenes.captions import describe
from orchestrator.data.scenes.render import render_image
from orchestrator.data.scenes.sample import random_stream, sample_scene
from orchestrator.labels.concepts import build_vocabulary, count_concepts
from orchestrator.models.towers import ModelBuild
from orchestrator.objectives.table import build_objective
from orchestrator.spec.objective import CatlipSpec
from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.spec.presets import PRESETS
from orchestrator.training.step import BareEngine, to_device, train_step
from orchestrator.wordnet.captions import packaged_finder

BATCH, NUM_SAMPLES, CONCEPTS_PER_ROW, PRESET = 64, 1024, 8, "vit_nano_32"
SHOWN = (1, 2, 5, 10, 20, 40, 60, 100)
OPTIMIZER = OptimizerSpec(learning_rate=2e-3, betas=(0.9, 0.999))
"""CatLIP's on CC3M."""

Ints = NDArray[np.int32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="a tenth of them warm up")
    parser.add_argument("--concepts", type=int, default=24320, help="of the drawn labels")
    arguments = parser.parse_args()
    image = np.stack([render_image(sample_scene(0, "train", index), 32) for index in range(NUM_SAMPLES)])
    for labels, (concepts, fraction) in {"scenes": scene_labels(), "zipf": zipf_labels(arguments.concepts)}.items():
        for at_log_prior in (False, True):
            records = train(image, concepts, fraction, at_log_prior, arguments.steps)
            start = {"labels": labels, "concepts": len(fraction), "bias": "log prior" if at_log_prior else "zero"}
            print(json.dumps({**start, "by_step": {step: records[step - 1] for step in SHOWN if step <= len(records)}}))


def scene_labels() -> tuple[Ints, NDArray[np.float64]]:
    """Concepts of each scene's caption [N, K], and the share of captions that name each."""
    captions = [
        describe(sample_scene(0, "train", index), random_stream(0, "train", "caption", index))
        for index in range(NUM_SAMPLES)
    ]
    vocabulary = build_vocabulary(
        count_concepts(captions, packaged_finder()), len(captions), min_count=5, finder=packaged_finder().version
    )
    concepts = np.full((NUM_SAMPLES, 32), -1, np.int32)
    for row, caption in zip(concepts, captions, strict=True):
        labels = vocabulary.labels(caption)
        row[: len(labels)] = labels
    return concepts, np.array(vocabulary.counts) / vocabulary.num_captions


def zipf_labels(num_concepts: int) -> tuple[Ints, NDArray[np.float64]]:
    """As many concepts a row as web captions have, the v-th drawn with a chance in 1 / v."""
    rng = np.random.default_rng(0)
    chance = 1 / np.arange(1, num_concepts + 1)
    drawn = rng.choice(num_concepts, (NUM_SAMPLES, CONCEPTS_PER_ROW), p=chance / chance.sum()).astype(np.int32)
    concepts = np.full((NUM_SAMPLES, CONCEPTS_PER_ROW), -1, np.int32)
    for row, values in zip(concepts, drawn, strict=True):
        distinct = np.unique(values)
        row[: len(distinct)] = distinct
    return concepts, 1 - (1 - chance / chance.sum()) ** CONCEPTS_PER_ROW


def train(
    image: NDArray[np.uint8], concepts: Ints, fraction: NDArray[np.float64], at_log_prior: bool, num_steps: int
) -> list[dict[str, float]]:
    """Loss, loss over prior and gradient norm of each step."""
    spec = CatlipSpec(name="catlip", bias_at_log_prior=at_log_prior)
    objective = build_objective(spec, ModelBuild(PRESETS[PRESET], 32, seed=0), fraction)
    engine = BareEngine(objective, OPTIMIZER, ScheduleSpec(warmup_fraction=0.1), num_steps, "fp32")
    records = []
    for rows in draw_batches(num_steps):
        columns = {"image": image[rows], "concepts": concepts[rows]}
        result = train_step(engine, [to_device(columns, columns, torch.device("cpu"))])
        numbers = {
            "loss": result.loss,
            "over_prior": result.metrics["loss_over_prior"],
            "gradient_norm": engine.gradient_norms()["total"],
        }
        records.append({name: float(f"{float(value):.5g}") for name, value in numbers.items()})
    return records


def draw_batches(num_steps: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(1)
    for _ in range(num_steps):
        yield rng.choice(NUM_SAMPLES, BATCH, replace=False)


if __name__ == "__main__":
    main()
