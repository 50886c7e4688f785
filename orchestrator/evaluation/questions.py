"""What evaluation asks: sets, and for each of their targets the rows with labels as tensors."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import EvaluationError
from orchestrator.evaluation.features import EvaluationBatch, FeatureSet
from orchestrator.evaluation.linear_probe import Split, split_rows
from orchestrator.evaluation.results import EMBEDDING, POOLED, ProbeResult
from orchestrator.spec.evaluation import Probe
from orchestrator.spec.targets import TargetSpec


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled images; ``batches`` holds this rank's rows and is read once."""

    name: str
    targets: dict[str, TargetSpec]
    batches: Iterable[EvaluationBatch]
    num_rows: int | None = None
    """Rows of all ranks that ``batches`` should give; what they lack was left out. None: not known."""
    read_all: Callable[[], Iterable[EvaluationBatch]] | None = None
    """Reads the rows of all ranks, as often as it is called: fine-tuning sees images again; none: it cannot."""
    first_train_row: int | None = None
    """Rows from this number on are the set's own training part: probes are fitted to them, and nothing is judged on
    them; none: it has no such part."""
    known: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    """Of targets with classes of both kinds: whether the concept vocabulary holds each."""


@dataclass(frozen=True)
class Question:
    """One target of one set."""

    set_name: str
    target_name: str
    target: TargetSpec
    rows: FeatureSet
    labels: Tensor
    """int64 [N] class indices, or bool [N, K] where a row carries several."""
    first_train_row: int | None = None
    """As of its set."""
    num_left_out: int = 0
    """Rows of its set that are bad or were not asked for."""
    known_K: Tensor | None = None
    """bool: whether the concept vocabulary holds the class; none: nothing to tell apart."""

    @property
    def split(self) -> Split:
        """What probes are fitted to and judged on."""
        return split_rows(self.rows.index, first_train_row=self.first_train_row)

    def judged(self) -> "Question":
        """The same of the rows that what needs no fit is judged on."""
        rows = self.rows.before(self.first_train_row)
        return replace(self, rows=rows, labels=self.labels[: len(rows.index)], first_train_row=None)

    @property
    def image_features(self) -> list[str]:
        """The features that probes of images alone read."""
        return [name for name in (POOLED, EMBEDDING) if name in self.rows.features]

    def result(self, probe: Probe, feature: str, **found: Any) -> ProbeResult:
        """The record of an answer; its details say how many rows were left out, if any, and how many classes known."""
        added = {"num_left_out": self.num_left_out} if self.num_left_out else {}
        if self.known_K is not None:
            added["num_classes_in_vocabulary"] = int(self.known_K.sum())
        if added:
            found["details"] = {**found.get("details", {}), **added}
        return ProbeResult(
            set=self.set_name,
            probe=probe,
            target=self.target_name,
            feature=feature,
            named_in_captions=self.target.named_in_captions,
            num_classes=len(self.target.classes),
            **found,
        )


def ask(one: EvaluationSet, rows: FeatureSet) -> list[Question]:
    """A question for each target.

    Raises:
        EvaluationError: rows without labels, with none or several for a target that wants one, or with unknown ones.
    """
    num_left_out = 0 if one.num_rows is None else one.num_rows - len(rows.index)
    return [
        Question(
            one.name,
            name,
            target,
            rows,
            _to_tensor(one.name, name, target, rows),
            first_train_row=one.first_train_row,
            num_left_out=num_left_out,
            known_K=torch.tensor(one.known[name]) if name in one.known else None,
        )
        for name, target in one.targets.items()
    ]


def _to_tensor(set_name: str, name: str, target: TargetSpec, rows: FeatureSet) -> Tensor:
    if name not in rows.targets:
        raise EvaluationError(
            f"evaluation set {set_name!r} describes target {name!r}, but its rows carry {sorted(rows.targets)};"
            " wanted labels in every row for every target"
        )
    labels = rows.targets[name]
    position = {label: i for i, label in enumerate(target.classes)}
    if unknown := sorted({label for own in labels for label in own if label not in position}):
        raise EvaluationError(
            f"rows of evaluation set {set_name!r} carry {unknown[:5]} for target {name!r}; wanted one of its"
            f" classes: {list(target.classes[:20])}"
        )
    if target.multi_label:
        label_NK = torch.zeros(len(labels), len(position), dtype=torch.bool)
        for row, own in enumerate(labels):
            label_NK[row, [position[label] for label in own]] = True
        if not label_NK.any():
            raise EvaluationError(
                f"no row of evaluation set {set_name!r} carries a class of target {name!r}; there is nothing to find"
            )
        return label_NK
    if wrong := [row for row, own in enumerate(labels) if len(own) != 1]:
        raise EvaluationError(
            f"{len(wrong)} rows of evaluation set {set_name!r} carry none or several labels for target {name!r}, such"
            f" as {list(labels[wrong[0]])}; wanted one, or multi_label: true in targets.json"
        )
    return torch.tensor([position[own[0]] for own in labels])
