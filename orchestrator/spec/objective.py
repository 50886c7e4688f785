"""The objectives a job can name, each with its own options; ``objectives/table.py`` holds their code."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.annotation import AnnotationNeed
from orchestrator.spec.section import Section


class ObjectiveSection(Section):
    """The options of an objective."""

    @property
    def annotations(self) -> tuple[AnnotationNeed, ...]:
        """What it reads beside images and captions; the class in ``objectives`` names their columns as well."""
        return ()


class ClipSpec(ObjectiveSection):
    """CLIP: symmetric cross-entropy over all image-caption pairs of the global batch (arXiv 2103.00020)."""

    name: Literal["clip"]
    initial_scale: float = Field(default=1 / 0.07, gt=0, le=100)
    """Where exp(t), the factor on the cosine similarities, starts (the paper's 1 / 0.07)."""
    max_scale: float = Field(default=100.0, gt=0)
    """Where it is clamped, in the optimiser's own copy (the paper's 100)."""


class CatlipSpec(ObjectiveSection):
    """CatLIP: multi-label classification of the WordNet concepts in the caption (arXiv 2404.15653)."""

    name: Literal["catlip"]
    vocabulary: str | None = None
    """A vocabulary made before (``concepts.parquet``); none: counted on the training captions."""
    min_count: int = Field(default=500, ge=1)
    """Concepts seen in fewer captions are left out (the paper's V_tau)."""
    max_concepts: int | None = Field(default=None, ge=2)
    """Keep at most this many of the most frequent (24320 in the paper's DataComp runs)."""
    bias_at_log_prior: bool = False
    """Start the classifier's bias at the log-odds of each concept instead of the paper's zero."""


ObjectiveSpec = Annotated[ClipSpec | CatlipSpec, Field(discriminator="name")]
