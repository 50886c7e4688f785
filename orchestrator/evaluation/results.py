"""What a probe found: one record per evaluation set, probe, target and feature, its metric names and its JSON."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from orchestrator.evaluation.bootstrap import Estimate
from orchestrator.spec.evaluation import Probe

POOLED = "pooled"  # the vision tower's pooled output, before any projection or classifier
EMBEDDING = "embedding"  # where images and texts meet, of length one
SYNSET_ROWS = "synset_rows"  # the pooled output through rows of a concept classifier: zero-shot without a text tower
RANDOM_WEIGHTS = "random_weights"  # the pooled output of a tower that was never pre-trained, for fine-tuning

VOCABULARY_PARTS = ("_in_vocabulary", "_outside_vocabulary")
"""What the names of scores end in that count some classes alone: those a concept vocabulary holds, and the others."""


@dataclass(frozen=True)
class Predictions:
    """What each judged row got, where a row has one label; classes by their place in ``targets.json``."""

    row: list[int]
    """Number within the set."""
    label: list[int]
    predicted: list[int]


@dataclass(frozen=True)
class Nearest:
    """What is most similar to each judged row, by their numbers within the set."""

    row: list[int]
    nearest: list[int]
    """The row that it is, or whose caption it is."""
    caption: list[int]
    """Which of that row's captions; -1: the image itself."""


@dataclass(frozen=True)
class ProbeResult:
    """The scores of one probe; without any, the probe does not apply, and ``reason`` says why."""

    set: str
    probe: Probe
    target: str
    """Name of the target; for retrieval the direction."""
    feature: str
    named_in_captions: bool
    num_classes: int
    """For retrieval the answers that there are."""
    scores: dict[str, Estimate] = field(default_factory=dict)
    """By name, with their intervals; the first is the one that counts."""
    chance: float | None = None
    """The first score of the best answer that does not look at the image."""
    num_test: int = 0
    """Rows that were judged."""
    details: dict[str, float] = field(default_factory=dict)
    """How the scores came about: ``chosen_c``, ``validation_quality``, ``num_train``, ``k``,
    ``classes_without_synset`` (never the answer of a zero-shot probe through synset rows),
    ``num_classes_in_vocabulary``, ..."""
    reason: str = ""
    """Why there is no score, or not each."""
    predictions: Predictions | None = None
    """Kept beside the run (``predictions.py``), not in what is printed and reported."""
    nearest: Nearest | None = None
    """Kept there too: the training image that neighbours give, the caption that retrieval gives."""

    @property
    def accuracy(self) -> float | None:
        """Top-1 accuracy, where the probe has one."""
        return self.scores["accuracy"].value if "accuracy" in self.scores else None

    def metrics(self) -> dict[str, float]:
        """Such as ``eval/scenes/linear_probe/shape/accuracy``, and ``.../accuracy/low`` and ``.../accuracy/high``."""
        prefix = f"eval/{self.set}/{probe_name(self.probe, self.feature)}/{self.target}"
        found = {}
        for name, score in self.scores.items():
            found[f"{prefix}/{name}"] = score.value
            found[f"{prefix}/{name}/low"] = score.low
            found[f"{prefix}/{name}/high"] = score.high
        return found

    def detail_metrics(self) -> dict[str, float]:
        """Numbers that say how the scores came about, such as ``eval/scenes/linear_probe/shape/details/chosen_c``."""
        if not self.scores:
            return {}
        found = {"num_classes": float(self.num_classes), "num_test": float(self.num_test), **self.details}
        if self.chance is not None:
            found["chance"] = self.chance
        prefix = f"eval/{self.set}/{probe_name(self.probe, self.feature)}/{self.target}/details"
        return {f"{prefix}/{name}": value for name, value in found.items()}

    def to_dict(self, *, with_predictions: bool = False) -> dict[str, Any]:
        """Plain values; :meth:`from_dict` is the way back."""
        return asdict(self if with_predictions else replace(self, predictions=None, nearest=None))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ProbeResult":
        scores = {name: Estimate(**score) for name, score in values["scores"].items()}
        predictions = Predictions(**values["predictions"]) if values["predictions"] else None
        nearest = Nearest(**values["nearest"]) if values["nearest"] else None
        return cls(**{**values, "scores": scores, "predictions": predictions, "nearest": nearest})


def split_part(score: str) -> tuple[str, str]:
    """A score's name without the part of the classes that it counts, and that part; empty: all classes."""
    part = next((part for part in VOCABULARY_PARTS if score.endswith(part)), "")
    return score.removesuffix(part), part


def probe_name(probe: Probe, feature: str) -> str:
    """A probe's name with its feature, unless that is the one the probe is meant for: ``linear_probe.embedding``,
    ``zero_shot.synset_rows``.
    """
    usual = EMBEDDING if probe in ("zero_shot", "retrieval") else POOLED
    return probe if feature == usual else f"{probe}.{feature}"


def summarise(results: Sequence[ProbeResult]) -> dict[str, float]:
    """Mean accuracies over targets that captions name (``named``), those that none names (``unnamed``), and all.

    Keys such as ``eval/scenes/linear_probe/unnamed/mean_accuracy``; probes that do not apply are not in it.
    """
    accuracies: dict[str, list[float]] = defaultdict(list)
    for result in results:
        prefix = f"eval/{result.set}/{probe_name(result.probe, result.feature)}"
        for name, value in _accuracies(result):
            for group in ("named" if result.named_in_captions else "unnamed", "all"):
                accuracies[f"{prefix}/{group}/mean_{name}"].append(value)
    return {name: sum(values) / len(values) for name, values in accuracies.items()}


def _accuracies(result: ProbeResult) -> Iterator[tuple[str, float]]:
    """``accuracy``, and ``accuracy_4_shot`` and the like."""
    for name, score in result.scores.items():
        if name.startswith("accuracy"):
            yield name, score.value


def results_to_json(results: Sequence[ProbeResult]) -> str:
    """The results and their summary as a JSON document, the same text for the same results."""
    document = {"results": [result.to_dict() for result in results], "summary": summarise(results)}
    return json.dumps(finite_or_null(document), indent=2, sort_keys=True, allow_nan=False) + "\n"


def finite_or_null(value: Any) -> Any:
    """A document with null for numbers that are not finite, which JSON has not, though Python would write them."""
    match value:
        case dict():
            return {key: finite_or_null(one) for key, one in value.items()}
        case list() | tuple():
            return [finite_or_null(one) for one in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
