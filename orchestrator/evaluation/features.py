"""The distributed feature pass: what a model makes of an evaluation set, every row exactly once, on every rank.

Owns the order and the gathering of rows; reads no storage (batches are handed in) and builds no model.
Trade-off: every rank ends up with all features, which costs world size times their memory (50,000 rows of 768:
154 MB a rank) and lets each rank fit any probe without asking another.

Legend: B rows of a batch, N rows of the set, H W image, D feature.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.errors import EvaluationError

T = TypeVar("T")

MAX_TEXTS_PER_CALL = 64  # as many as images: more do not fit a core's cache, and take longer each

Labels = str | int | Sequence[str | int]
"""What a row carries for a target: one label, or several."""


class EvaluationBatch(Protocol):
    """Some rows of an evaluation set, as one rank reads them."""

    @property
    def index(self) -> np.ndarray:
        """int64 [B]: each row's number within the set, the same at every world size."""

    @property
    def image(self) -> np.ndarray:
        """uint8 [B, H, W, 3]; H and W are the same in all batches."""

    @property
    def targets(self) -> Mapping[str, Sequence[Labels]]:
        """Target name to the labels of B rows."""

    @property
    def captions(self) -> Sequence[Sequence[str]]:
        """The captions of B rows; a row may have none."""


@dataclass(frozen=True)
class FeatureSet:
    """Rows of an evaluation set in row order."""

    index: Tensor
    """int64 [N], ascending, each row once."""
    features: dict[str, Tensor]
    """Name ("pooled", "embedding") to fp32 [N, D] on the CPU."""
    targets: dict[str, list[tuple[str, ...]]]
    """Target name to the labels of N rows, as text."""
    captions: list[tuple[str, ...]]
    """Those of N rows."""

    def before(self, stop: int | None) -> "FeatureSet":
        """The rows with numbers below ``stop``; none: all."""
        if stop is None:
            return self
        num_rows = int(torch.searchsorted(self.index, stop))
        features = {name: feature_ND[:num_rows] for name, feature_ND in self.features.items()}
        targets = {name: labels[:num_rows] for name, labels in self.targets.items()}
        return FeatureSet(self.index[:num_rows], features, targets, self.captions[:num_rows])


def extract_features(
    encode: Callable[[Tensor], dict[str, Tensor]], batches: Iterable[EvaluationBatch], world_size: int
) -> FeatureSet:
    """Encodes this rank's batches and gathers those of all ranks; all ranks must call it, all get the same.

    Args:
        encode: uint8 [B, H, W, 3] on the CPU to named features [B, D] on any device.
        batches: this rank's rows; ranks may have different numbers of them, or none.
        world_size: ranks of the default process group; 1 needs no group.

    Raises:
        EvaluationError: no rows at all, batches that disagree about their targets, or features that are not finite.
    """
    parts: list[FeatureSet] = []
    for image_BHWC, batch in _in_step(batches, world_size):
        with torch.no_grad():
            encoded = encode(image_BHWC)
        if batch is not None:
            parts.append(_to_part(batch, encoded))
    gathered = [part for rank_parts in _gather(parts, world_size) for part in rank_parts]
    return _in_row_order(gathered)


def extract_text_features(
    encode: Callable[[list[str]], Tensor], texts: Sequence[str], rank: int, world_size: int
) -> Tensor:
    """fp32 [len(texts), D] on the CPU; all ranks call it with the same texts, encode a share of them, and get all.

    Args:
        encode: texts to [B, D] on any device.

    Raises:
        EvaluationError: features that are not finite.
    """
    calls = [list(texts[i : i + MAX_TEXTS_PER_CALL]) for i in range(0, len(texts), MAX_TEXTS_PER_CALL)]
    own = []
    with torch.no_grad():
        for first in range(0, len(calls), world_size):
            call = calls[min(first + rank, len(calls) - 1)]  # beyond the last call: again, to stay in step
            own.append(encode(call).float().cpu())
    by_rank = _gather(own, world_size)
    text_ND = torch.cat([by_rank[i % world_size][i // world_size] for i in range(len(calls))])
    if num_bad := int((~text_ND.isfinite().all(dim=1)).sum()):
        raise EvaluationError(
            f"the features of {num_bad} of {len(texts)} texts are not finite; the model has diverged: judge an earlier"
            " checkpoint"
        )
    return text_ND


def _in_step(batches: Iterable[EvaluationBatch], world_size: int) -> Iterator[tuple[Tensor, EvaluationBatch | None]]:
    """Yields equally often on all ranks; a rank without rows left gets a blank image to encode, and no batch.

    A model whose weights are spread over ranks (ZeRO-3) gathers them in every forward pass, so one rank more or
    less in a forward pass would leave the others waiting for ever.
    """
    iterator = iter(batches)
    while True:
        batch = next(iterator, None)
        shapes = _gather(None if batch is None else batch.image.shape, world_size)
        shape = next((shape for shape in shapes if shape is not None), None)
        if shape is None:
            return
        if batch is None:
            yield torch.zeros((1, *shape[1:]), dtype=torch.uint8), None
        else:
            yield torch.from_numpy(batch.image), batch


def _gather(value: T, world_size: int) -> list[T]:
    if world_size == 1:
        return [value]
    gathered: list[T | None] = [None] * world_size
    dist.all_gather_object(gathered, value)
    return gathered  # type: ignore[return-value]  # filled by the call


def _to_part(batch: EvaluationBatch, encoded: dict[str, Tensor]) -> FeatureSet:
    return FeatureSet(
        index=torch.from_numpy(batch.index),
        features={name: feature_BD.float().cpu() for name, feature_BD in encoded.items()},
        targets={name: [_as_texts(labels) for labels in rows] for name, rows in batch.targets.items()},
        captions=[tuple(own) for own in batch.captions],
    )


def _as_texts(labels: Labels) -> tuple[str, ...]:
    return (str(labels),) if isinstance(labels, str | int) else tuple(str(label) for label in labels)


def _in_row_order(parts: list[FeatureSet]) -> FeatureSet:
    if not parts:
        raise EvaluationError("the evaluation set has no rows; wanted at least one: name another in evaluation.sets")
    names = list(parts[0].targets)
    for part in parts:
        if set(part.targets) != set(names):
            raise EvaluationError(f"rows of one evaluation set carry targets {names} and {list(part.targets)}")
    index, first = np.unique(torch.cat([part.index for part in parts]).numpy(), return_index=True)
    features = {}
    for name in parts[0].features:
        features[name] = torch.cat([part.features[name] for part in parts])[torch.from_numpy(first)]
        if num_bad := int((~features[name].isfinite().all(dim=1)).sum()):
            raise EvaluationError(
                f"feature {name!r} is not finite in {num_bad} of {len(index)} rows; the model has diverged: judge an"
                " earlier checkpoint"
            )
    targets = {}
    for name in names:
        labels = [label for part in parts for label in part.targets[name]]
        targets[name] = [labels[row] for row in first]
    captions = [own for part in parts for own in part.captions]
    return FeatureSet(torch.from_numpy(index), features, targets, [captions[row] for row in first])
