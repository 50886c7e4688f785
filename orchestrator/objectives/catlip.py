"""CatLIP: each image is classified into the WordNet concepts that its caption names (arXiv 2404.15653).

Binary cross-entropy, summed over the vocabulary and averaged over the batch. There is no text tower and nothing is
gathered: ranks only share gradients. Targets stay sparse, since -y z is zero wherever y is. The classifier and its
loss are one call (``concept_classifier.py``), so that no B x V tensor is kept.

Legend: B micro batch, V vocabulary, K most concepts of a caption, F features of the vision tower, H W image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from orchestrator import columns
from orchestrator.models.pixels import normalize_pixels
from orchestrator.models.towers import ModelBuild, build_vision_tower
from orchestrator.objectives.concept_classifier import ConceptClassifier, multi_label_loss
from orchestrator.objectives.objective import Export, Features, LinearClassifier, Objective, concatenate
from orchestrator.spec.objective import CatlipSpec


class CatlipObjective(Objective):
    """A vision tower and one linear classifier over its pooled output."""

    columns = CatlipSpec.columns
    contrastive = CatlipSpec.contrastive

    def __init__(self, spec: CatlipSpec, vision: Any, concept_fraction_V: NDArray[np.float64], seed: int) -> None:
        """``vision`` is a `transformers` CLIP vision tower.

        ``concept_fraction_V``: the share of training captions that name each concept.
        """
        super().__init__()
        self.vision = vision
        # No buffer: it would be cast to bf16 together with the weights, and the baseline must be exact.
        self._log_odds_V = torch.from_numpy(_log_odds(concept_fraction_V)).float()
        generator = torch.Generator().manual_seed(seed)
        self.classifier = ConceptClassifier(vision.config.hidden_size, len(concept_fraction_V), generator)
        if spec.bias_at_log_prior:
            with torch.no_grad():
                self.classifier.bias.copy_(self._log_odds_V)

    @classmethod
    def build(
        cls, spec: CatlipSpec, model: ModelBuild, concept_fraction_V: NDArray[np.float64] | None
    ) -> "CatlipObjective":
        assert concept_fraction_V is not None, "CatLIP is built with the vocabulary's frequencies"
        return cls(spec, build_vision_tower(model), concept_fraction_V, model.seed)

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        return {"pooled_BF": self._pooled(batch[columns.IMAGE]), "concepts_BK": batch[columns.CONCEPTS].long()}

    def loss(self, features: Sequence[Features]) -> tuple[Tensor, dict[str, Tensor]]:
        joined = concatenate(features)
        concepts_BK = joined["concepts_BK"]
        loss, precision_at_5 = self.classifier(joined["pooled_BF"], concepts_BK)
        self._log_odds_V = self._log_odds_V.to(concepts_BK.device)
        prior_loss = multi_label_loss(self._log_odds_V.unsqueeze(0), concepts_BK)
        metrics = {"precision_at_5": precision_at_5, "loss_over_prior": loss.detach() - prior_loss}
        return loss, metrics | _concept_metrics(concepts_BK)

    def towers(self) -> dict[str, nn.Module]:
        return {"vision": self.vision}

    def vision_features(self, image_BHW3: Tensor) -> Tensor:
        return self._pooled(image_BHW3).float()

    def concept_classifier(self) -> LinearClassifier:
        return LinearClassifier(self.classifier.weight.float(), self.classifier.bias.float())

    def export(self, state: Mapping[str, Tensor]) -> Export:
        model = type(self.vision)(self.vision.config)
        tower = {name.removeprefix("vision."): state[name] for name in state if name.startswith("vision.")}
        model.load_state_dict(tower)
        return Export(model, head={name: state[name] for name in state if name.startswith("classifier.")})

    def _pooled(self, image_BHW3: Tensor) -> Tensor:
        pooled_BF: Tensor = self.vision(pixel_values=normalize_pixels(image_BHW3, self.vision.pixels)).pooler_output
        return pooled_BF


@torch.no_grad()
def _concept_metrics(concepts_BK: Tensor) -> dict[str, Tensor]:
    positives_B = (concepts_BK >= 0).sum(dim=1).float()
    return {
        "positives_per_image": positives_B.mean(),
        "all_zero_fraction": (positives_B == 0).float().mean(),
        "left_out_concepts_per_image": (-1 - concepts_BK.clamp(max=-1)).sum(dim=1).float().mean(),
    }


def _log_odds(fraction_V: NDArray[np.float64]) -> NDArray[np.float64]:
    # A concept of all captions or of none has no finite odds.
    bounded = np.clip(fraction_V, 1e-7, 1 - 1e-7)
    return np.log(bounded) - np.log1p(-bounded)
