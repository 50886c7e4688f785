"""The linear probe's sweep over C, against scikit-learn's own loop over the same values of C.

    python benchmarks/probe.py [--rows 2000] [--features 128] [--classes 10]

Both standardise alike, fit each C on the training part, choose on the validation part, fit once more on both and are
judged on the test part; each with its own L-BFGS, scikit-learn's with its defaults but for 1,000 iterations. Features
are Gaussian with a power-law spectrum, as a network's are, and classes that overlap. Prints one line of JSON: wall and
CPU seconds of each, their ratios, accuracies, chosen C, and how many of scikit-learn's fits ended unconverged.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from orchestrator.evaluation import linear_probe as module
from orchestrator.evaluation.linear_probe import Split, linear_probe, split_rows
from orchestrator.evaluation.logistic_regression import Score, standardise

Found = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--classes", type=int, default=10)
    arguments = parser.parse_args()
    feature_ND, label_N = make_rows(arguments.rows, arguments.features, arguments.classes)
    split = split_rows(torch.arange(arguments.rows))
    visited = visited_cs(lambda: ours(feature_ND, label_N, arguments.classes, split))
    own = timed(lambda: ours(feature_ND, label_N, arguments.classes, split))
    peer = timed(lambda: scikit_learn(feature_ND, label_N, visited, split))
    ratios = {f"{kind}_ratio": round(peer[kind] / own[kind], 2) for kind in ("wall_s", "cpu_s")}
    sizes = {"rows": arguments.rows, "features": arguments.features, "classes": arguments.classes}
    print(json.dumps({**sizes, "values_of_c": len(visited), "ours": own, "scikit_learn": peer, **ratios}))


def make_rows(num_rows: int, num_features: int, num_classes: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    spectrum_D = np.arange(1, num_features + 1) ** -0.8
    label_N = rng.integers(0, num_classes, num_rows)
    center_KD = rng.normal(0, 0.25, (num_classes, num_features))
    latent_ND = (center_KD[label_N] + rng.normal(0, 1, (num_rows, num_features))) * spectrum_D
    mixing_DD = np.linalg.qr(rng.normal(0, 1, (num_features, num_features)))[0]
    return torch.from_numpy(latent_ND @ mixing_DD).float(), torch.from_numpy(label_N)


def ours(feature_ND: Tensor, label_N: Tensor, num_classes: int, split: Split) -> Found:
    found = linear_probe(feature_ND, label_N, num_classes, split)
    accuracy = (found.logits.argmax(dim=1) == label_N[split.test]).double().mean().item()
    return {"accuracy": accuracy, "chosen_c": found.chosen_c}


def scikit_learn(feature_ND: Tensor, label_N: Tensor, values_of_c: list[float], split: Split) -> Found:
    x_ND, y_N = standardise(feature_ND.double(), split.train).numpy(), label_N.numpy()
    train, validation, test = split.train.numpy(), split.validation.numpy(), split.test.numpy()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        fits = [LogisticRegression(C=c, max_iter=1000).fit(x_ND[train], y_N[train]) for c in values_of_c]
        scores = [fit.score(x_ND[validation], y_N[validation]) for fit in fits]
        chosen_c = values_of_c[int(np.argmax(scores))]
        both = np.concatenate([train, validation])
        last = LogisticRegression(C=chosen_c, max_iter=1000).fit(x_ND[both], y_N[both])
    unconverged = sum(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return {"accuracy": last.score(x_ND[test], y_N[test]), "chosen_c": chosen_c, "unconverged": unconverged}


def visited_cs(probe: Callable[[], Found]) -> list[float]:
    """The values of C that our sweep fits, smallest first."""
    visited: list[float] = []
    sweep = module.sweep

    def noting(score: Callable[[float], Score]) -> tuple[float, Score]:
        return sweep(lambda c: (visited.append(c), score(c))[1])

    module.sweep = noting
    probe()
    module.sweep = sweep
    return sorted(visited)


def timed(work: Callable[[], Found]) -> Found:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    found = work()
    taken = {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}
    return {name: round(seconds, 3) for name, seconds in taken.items()} | found


if __name__ == "__main__":
    main()
