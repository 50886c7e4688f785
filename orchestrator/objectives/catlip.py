"""CatLIP: each image is classified into the WordNet concepts that its caption names (arXiv 2404.15653).

Binary cross-entropy, summed over the vocabulary and averaged over the batch. There is no text tower and nothing is
gathered: ranks only share gradients. Targets stay sparse, since -y z is zero wherever y is.

Legend: B micro batch, V vocabulary, K most concepts of a caption, F features of the vision tower, H W image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from orchestrator import columns
from orchestrator.models.pixels import normalize_pixels
from orchestrator.objectives.objective import Export, Features, Objective, concatenate
from orchestrator.spec.objective import CatlipSpec

_TOP_K = 5


class CatlipObjective(Objective):
    """A vision tower and one linear classifier over its pooled output."""

    columns = (columns.IMAGE, columns.CONCEPTS)
    contrastive = False

    def __init__(self, spec: CatlipSpec, vision: Any, concept_fraction_V: NDArray[np.float64], seed: int) -> None:
        """``vision`` is a `transformers` CLIP vision tower.

        ``concept_fraction_V``: the share of training captions that name each concept.
        """
        super().__init__()
        self.vision = vision
        # No buffer: it would be cast to bf16 together with the weights, and the baseline must be exact.
        self._log_odds_V = torch.from_numpy(_log_odds(concept_fraction_V)).float()
        self.classifier = Fp32Linear(vision.config.hidden_size, len(concept_fraction_V))
        generator = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
        with torch.no_grad():
            self.classifier.bias.copy_(self._log_odds_V if spec.bias_at_log_prior else torch.zeros(()))

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        logits_BV = self.classifier(self._pooled(batch[columns.IMAGE]))
        return {"logits_BV": logits_BV, "concepts_BK": batch[columns.CONCEPTS].long()}

    def loss(self, features: Sequence[Features]) -> tuple[Tensor, dict[str, Tensor]]:
        joined = concatenate(features)
        logits_BV, concepts_BK = joined["logits_BV"], joined["concepts_BK"]
        with torch.autocast(logits_BV.device.type, enabled=False):
            loss = multi_label_loss(logits_BV, concepts_BK)
        metrics = _concept_metrics(logits_BV.detach(), concepts_BK)
        self._log_odds_V = self._log_odds_V.to(logits_BV.device)
        prior_loss = multi_label_loss(self._log_odds_V.unsqueeze(0), concepts_BK)
        return loss, metrics | {"loss_over_prior": loss.detach() - prior_loss}

    def towers(self) -> dict[str, nn.Module]:
        return {"vision": self.vision}

    def vision_features(self, image_BHW3: Tensor) -> Tensor:
        return self._pooled(image_BHW3).float()

    def export(self, state: Mapping[str, Tensor]) -> Export:
        model = type(self.vision)(self.vision.config)
        tower = {name.removeprefix("vision."): state[name] for name in state if name.startswith("vision.")}
        model.load_state_dict(tower)
        return Export(model, head={name: state[name] for name in state if name.startswith("classifier.")})

    def _pooled(self, image_BHW3: Tensor) -> Tensor:
        pooled_BF: Tensor = self.vision(pixel_values=normalize_pixels(image_BHW3, self.vision.pixels)).pooler_output
        return pooled_BF


class Fp32Linear(nn.Linear):
    """A linear layer that multiplies in fp32 whatever its weights and inputs are kept in."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return linear(input.float(), self.weight.float(), self.bias.float())


def multi_label_loss(logits_BV: Tensor, concepts_BK: Tensor) -> Tensor:
    """Binary cross-entropy with targets 1 at ``concepts_BK`` (-1: no concept; no concept twice) and 0 elsewhere.

    Summed over V, averaged over B: the sum of log(1 + exp(z)) - y z. ``logits_BV`` may be one row for all.
    """
    present_BK = concepts_BK >= 0
    rows_BV = logits_BV.expand(len(concepts_BK), -1)
    positive_BK = rows_BV.gather(1, concepts_BK.clamp(min=0)) * present_BK
    return softplus(logits_BV).sum() / len(logits_BV) - positive_BK.sum() / len(concepts_BK)


@torch.no_grad()
def _concept_metrics(logits_BV: Tensor, concepts_BK: Tensor) -> dict[str, Tensor]:
    top = logits_BV.topk(min(_TOP_K, logits_BV.shape[1]), dim=1).indices
    hits = (top.unsqueeze(2) == concepts_BK.unsqueeze(1)).any(dim=2)
    positives_B = (concepts_BK >= 0).sum(dim=1).float()
    return {
        "precision_at_5": hits.float().mean(),
        "positives_per_image": positives_B.mean(),
        "all_zero_fraction": (positives_B == 0).float().mean(),
    }


def _log_odds(fraction_V: NDArray[np.float64]) -> NDArray[np.float64]:
    # A concept of all captions or of none has no finite odds.
    bounded = np.clip(fraction_V, 1e-7, 1 - 1e-7)
    return np.log(bounded) - np.log1p(-bounded)
