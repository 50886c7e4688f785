"""What a probe found: one record per evaluation set, probe, target and feature, its metric names and its JSON."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Probe = Literal["zero_shot", "linear_probe"]
POOLED = "pooled"  # the vision tower's pooled output, before any projection or classifier
EMBEDDING = "embedding"  # where images and texts meet, of length one
SYNSET_ROWS = "synset_rows"  # the pooled output through rows of a concept classifier: zero-shot without a text tower


@dataclass(frozen=True)
class ProbeResult:
    """Top-1 accuracy of one probe; without ``accuracy`` the probe does not apply, and ``reason`` says why."""

    set: str
    probe: Probe
    target: str
    feature: str
    named_in_captions: bool
    num_classes: int
    accuracy: float | None = None
    chance: float | None = None
    """Accuracy of the best constant answer: the share of the most frequent class among the judged rows."""
    num_test: int = 0
    """Rows that were judged."""
    details: dict[str, float] = field(default_factory=dict)
    """Further numbers: ``top5_accuracy``, ``classes_without_synset`` (never the answer of a zero-shot probe through
    synset rows); ``inverse_penalty``, ``validation_accuracy``, ``num_train``."""
    reason: str = ""

    def metric_name(self) -> str:
        """Such as ``eval/scenes/linear_probe/shape/accuracy``; see :func:`probe_name`."""
        return f"eval/{self.set}/{probe_name(self.probe, self.feature)}/{self.target}/accuracy"

    def to_dict(self) -> dict[str, Any]:
        """Plain values; :meth:`from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ProbeResult":
        return cls(**values)


def probe_name(probe: Probe, feature: str) -> str:
    """A probe's name with its feature, unless that is the one the probe is meant for: ``linear_probe.embedding``,
    ``zero_shot.synset_rows``.
    """
    usual = {"zero_shot": EMBEDDING, "linear_probe": POOLED}[probe]
    return probe if feature == usual else f"{probe}.{feature}"


def summarise(results: Sequence[ProbeResult]) -> dict[str, float]:
    """Mean accuracy over targets that captions name (``named``), those that none names (``unnamed``), and all.

    Keys such as ``eval/scenes/linear_probe/unnamed/mean_accuracy``; probes that do not apply are not in it.
    """
    accuracies: dict[str, list[float]] = defaultdict(list)
    for result in results:
        if result.accuracy is None:
            continue
        prefix = f"eval/{result.set}/{probe_name(result.probe, result.feature)}"
        for group in ("named" if result.named_in_captions else "unnamed", "all"):
            accuracies[f"{prefix}/{group}/mean_accuracy"].append(result.accuracy)
    return {name: sum(values) / len(values) for name, values in accuracies.items()}


def results_to_json(results: Sequence[ProbeResult]) -> str:
    """The results and their summary as a JSON document, the same text for the same results."""
    document = {"results": [result.to_dict() for result in results], "summary": summarise(results)}
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
