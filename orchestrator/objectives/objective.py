"""What the training loop and the probes know of an objective, whichever it is.

An objective owns its towers, heads and learnable scalars, its loss and its metrics. It reads nothing: batches
arrive with the columns it names, and text arrives through a ``tokenize`` callable. The gradient's way to the
weights (averaging, clipping, the update) belongs to ``training``.

Legend: B rows of a micro batch, H W image, T tokens, V concepts, D embedding, F features of the vision tower.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from orchestrator import columns
from orchestrator.models.patches import keeping
from orchestrator.models.towers import ModelBuild

Features = dict[str, Tensor]
"""What ``encode`` makes of a micro batch; each tensor has its B rows first."""


class Export(NamedTuple):
    """A trained objective as other programs open it."""

    model: Any
    """A `transformers` model that holds the trained weights; its ``save_pretrained`` writes them."""
    head: dict[str, Tensor]
    """Trained tensors that have no place in that model."""


class LinearClassifier(NamedTuple):
    """Logits are ``features_BF @ weight_VF.T + bias_V``."""

    weight_VF: Tensor
    bias_V: Tensor


class Objective(nn.Module, ABC):
    """One way to pre-train: two calls, ``encode`` per micro batch and ``loss`` over all of a step."""

    columns: ClassVar[tuple[str, ...]]
    """Content columns that a batch must hold, as its spec says; those of annotations that the spec asks for are named
    by ``annotation_column`` and ``presence_column``."""
    contrastive: ClassVar[bool]
    """Whether rows of a batch serve as each other's negatives, as its spec says: ``loss`` then sees all of a step."""

    @classmethod
    @abstractmethod
    def build(cls, spec: Any, model: ModelBuild, concept_fraction_V: NDArray[np.float64] | None) -> "Objective":
        """With fresh weights, fp32, on the CPU, the same for the same seed.

        Args:
            spec: of the class that names this one as its ``implementation``.
            model: sizes; with ``tokens`` if the objective reads captions.
            concept_fraction_V: share of captions that name each concept, if the objective reads concepts.
        """

    @abstractmethod
    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        """Runs the towers over one micro batch. Speaks to no other rank."""

    @abstractmethod
    def loss(self, features: Sequence[Features]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of this rank's rows, 0-dim fp32, and metrics; the only place that speaks to other ranks.

        The loss and each metric (detached, 0-dim, on the device) are means over this rank's rows, so that with
        equal worker batches their means over ranks are those of the global batch.
        """

    @abstractmethod
    def towers(self) -> dict[str, nn.Module]:
        """Towers by name. What lies in none of them (heads, scalars) is counted as ``head``."""

    @abstractmethod
    def vision_features(self, image_BHW3: Tensor) -> Tensor:
        """Pooled output of the vision tower [B, F], fp32, before any projection or classifier; probes read it."""

    @abstractmethod
    def export(self, state: Mapping[str, Tensor]) -> Export:
        """``state`` (a full state dict of this objective, fp32) as a model that `transformers` opens."""

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Least and greatest value of parameters, by name, that the engine must clamp where it keeps them."""
        return {}

    def concept_classifier(self) -> LinearClassifier | None:
        """Of ``vision_features`` into the concepts of the vocabulary; None: the objective trains none."""
        return None

    def image_embedding(self, image_BHW3: Tensor) -> Tensor:
        """Images as unit vectors [B, D], fp32: what nearest neighbours and retrieval compare."""
        return unit_length(self.vision_features(image_BHW3))

    def forward(self, payload: Any, stage: Literal["encode", "loss"]) -> Any:
        """``encode`` of a batch or ``loss`` of features: one door, since ZeRO-3 gathers weights at this call only."""
        if stage == "loss":
            return self.loss(payload)
        with keeping(self.towers().values(), payload.get(columns.KEPT_PATCHES)):
            return self.encode(payload)


class ZeroShotObjective(Objective):
    """An objective with a text tower, which can classify by the names of classes alone."""

    @abstractmethod
    def text_embedding(self, tokens_BT: Tensor) -> Tensor:
        """Captions as unit vectors [B, D], fp32; their product with ``image_embedding`` is the cosine similarity."""

    def pooled_and_embedding(self, image_BHW3: Tensor) -> tuple[Tensor, Tensor]:
        """``vision_features`` and ``image_embedding``; overridden where one pass through the tower gives both."""
        return self.vision_features(image_BHW3), self.image_embedding(image_BHW3)


def unit_length(rows_BD: Tensor) -> Tensor:
    """Rows scaled to length one, in fp32 whatever they come in."""
    return nn.functional.normalize(rows_BD.float(), dim=-1)


def concatenate(features: Sequence[Features]) -> Features:
    """The features of several micro batches as those of one."""
    if len(features) == 1:
        return features[0]
    return {name: torch.cat([part[name] for part in features]) for name in features[0]}
