"""How many parameters an objective has, counted from the sizes of its towers; tests hold it against built modules."""

from dataclasses import dataclass

from orchestrator.spec.objective import CatlipSpec, SiglipSpec
from orchestrator.spec.optimizer import FreezeSpec
from orchestrator.spec.plan import ModelPlan, Plan
from orchestrator.spec.presets import PRESETS, VARIANTS, TransformerSize


@dataclass(frozen=True)
class TowerParameters:
    """Of one tower, from the bottom up."""

    embeddings: int
    """Patches or tokens, positions, and the norm before the layers."""
    layer: int
    """Of each layer."""
    num_layers: int
    rest: int
    """What follows the layers: norm, pooling, projection."""

    @property
    def total(self) -> int:
        """Of the tower."""
        return self.embeddings + self.num_layers * self.layer + self.rest

    def trained(self, freeze: FreezeSpec | None) -> int:
        """Those that are trained at any time of the run."""
        if freeze is None or freeze.until_fraction is not None:
            return self.total
        return 0 if freeze.layers is None else self.total - self.embeddings - freeze.layers * self.layer


@dataclass(frozen=True)
class Parameters:
    """Of an objective."""

    towers: dict[str, TowerParameters]
    head: int
    """Scalars and classifiers; those of an objective from another package are not known, nor is a vocabulary that is
    counted when the job runs."""
    trained: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.head + sum(tower.total for tower in self.towers.values())


def count_parameters(plan: Plan) -> Parameters:
    """Of a plan's objective."""
    towers = {"vision": _vision(plan)}
    if plan.objective.reads_captions:
        towers["text"] = _text(plan)
    head = _head(plan)
    trained = sum(tower.trained(freeze_of(plan, name)) for name, tower in towers.items())
    return Parameters(towers, head, head + trained)


def freeze_of(plan: Plan, tower: str) -> FreezeSpec | None:
    """What of a tower keeps its weights."""
    return next((freeze for name, freeze in plan.optimizer.freeze.items() if name == tower), None)


def has_siglip_towers(plan: Plan) -> bool:
    """Whether images are pooled by attention and captions at their last position."""
    return isinstance(plan.objective, SiglipSpec) and plan.objective.towers == "siglip"


def num_tokens(model: ModelPlan) -> int:
    """Of the tokenizer; at most, where it is trained when the job runs."""
    return model.tokenizer.vocabulary_size if model.tokenizer else model.trained_tokenizer_size


def num_concepts(plan: Plan) -> int:
    """Classes of a classifier of concepts; at most, where they are counted when the job runs."""
    if not isinstance(plan.objective, CatlipSpec):
        return 0
    return plan.model.vocabulary.size if plan.model.vocabulary else plan.objective.max_concepts or 0


def _vision(plan: Plan) -> TowerParameters:
    size, variant = PRESETS[plan.model.preset], VARIANTS[plan.model.variant]
    width, patches = size.vision.width, (plan.model.image_size // size.patch_size) ** 2
    patch = 3 * size.patch_size**2 * width
    if has_siglip_towers(plan):
        # A learned query, attention, a norm and a feed-forward layer make the pooled output.
        pooling = width + _layer(size.vision) - 2 * width
        return TowerParameters(
            patch + width + patches * width, _layer(size.vision), size.vision.num_layers, 2 * width + pooling
        )
    if variant.has_conv_stem:
        hidden, last = max(32, width // 4), size.patch_size // 8
        patch = (3 * 16 + 1) * hidden + (4 * hidden + 1) * hidden + (last**2 * hidden + 1) * width
    norm = 0 if variant.has_conv_stem else 2 * width
    projection = width * size.embedding_width if plan.objective.reads_captions else 0
    embeddings = patch + (patches + 2) * width + norm
    return TowerParameters(embeddings, _layer(size.vision), size.vision.num_layers, 2 * width + projection)


def _text(plan: Plan) -> TowerParameters:
    size = PRESETS[plan.model.preset]
    width = size.text.width
    embeddings = (num_tokens(plan.model) + plan.model.context) * width
    siglip_head = (width + 1) * size.vision.width
    rest = 2 * width + (siglip_head if has_siglip_towers(plan) else width * size.embedding_width)
    return TowerParameters(embeddings, _layer(size.text), size.text.num_layers, rest)


def _layer(size: TransformerSize) -> int:
    """Attention 4 w^2 + 4 w, feed-forward of width m 2 w m + m + w, two norms 4 w."""
    return 4 * size.width**2 + 2 * size.width * size.mlp_width + 9 * size.width + size.mlp_width


def _head(plan: Plan) -> int:
    if isinstance(plan.objective, CatlipSpec):
        return num_concepts(plan) * (PRESETS[plan.model.preset].vision.width + 1)
    return {"clip": 1, "siglip": 2}.get(plan.objective.name, 0)
