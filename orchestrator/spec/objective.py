"""The objectives a job can name, each with its own options.

What an objective is planned by lies here, in its spec; its code is imported only where it is built. The union at the
end is the table of them; objectives of other packages join it by an entry point (``spec/installed.py``).
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, WrapValidator, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from orchestrator import columns as batch
from orchestrator.spec.annotation import AnnotationNeed
from orchestrator.spec.section import Section


class ObjectiveSection(Section):
    """What the spec of every objective says of it besides its options: enough to plan a run without its code."""

    implementation: ClassVar[str]
    """``package.module:Class`` of its ``Objective``; imported on workers."""
    columns: ClassVar[tuple[str, ...]]
    """Content columns (``orchestrator.columns``) that its batches hold."""
    contrastive: ClassVar[bool]
    """Whether rows of a batch serve as each other's negatives, so that a step must see all of them at once."""

    name: str
    """What a job calls it; each spec says ``Literal["..."]``."""

    @property
    def annotations(self) -> tuple[AnnotationNeed, ...]:
        """What it reads beside images and captions; the class in ``objectives`` names their columns as well."""
        return ()

    @property
    def reads_captions(self) -> bool:
        """Whether captions reach it as tokens, so that it needs a tokenizer."""
        return batch.TOKENS in self.columns

    @property
    def reads_concepts(self) -> bool:
        """Whether captions reach it as concepts, so that it needs a vocabulary."""
        return batch.CONCEPTS in self.columns


def _check_scale(initial: float, most: float | None) -> None:
    if most is not None and initial > most:
        raise ValueError(
            f"initial_scale {initial:g} lies above max_scale {most:g}, to which the first step would clamp it; "
            f"lower initial_scale, or raise max_scale"
        )


class ClipSpec(ObjectiveSection):
    """CLIP: symmetric cross-entropy over all image-caption pairs of the global batch (arXiv 2103.00020)."""

    implementation = "orchestrator.objectives.clip:ClipObjective"
    columns = (batch.IMAGE, batch.TOKENS)
    contrastive = True

    name: Literal["clip"]
    initial_scale: float = Field(default=1 / 0.07, ge=1)
    """Where exp(t), the factor on the cosine similarities, starts (the paper's 1 / 0.07)."""
    max_scale: float = Field(default=100.0, ge=1)
    """Where it is clamped, in the optimiser's own copy (the paper's 100); from below at 1."""

    @model_validator(mode="after")
    def _starts_within(self) -> "ClipSpec":
        _check_scale(self.initial_scale, self.max_scale)
        return self


class SiglipSpec(ObjectiveSection):
    """SigLIP: every image-caption pair of the global batch is judged on its own (arXiv 2303.15343)."""

    implementation = "orchestrator.objectives.siglip:SiglipObjective"
    columns = (batch.IMAGE, batch.TOKENS)
    contrastive = True

    name: Literal["siglip"]
    towers: Literal["siglip", "clip"] = "siglip"
    """``siglip``: the paper's, pooled by attention (images) and at the last position (captions);
    ``clip``: those of objective ``clip``, with the same first weights, so that only the loss differs."""
    initial_scale: float = Field(default=10.0, gt=0)
    """Where exp(t'), the factor on the cosine similarities, starts (the paper's t' = log 10)."""
    initial_bias: float = -10.0
    """Where b, which is added to each logit, starts (the paper's -10: nearly all pairs are negative)."""
    max_scale: float | None = Field(default=None, gt=0)
    """Where exp(t') is clamped, in the optimiser's own copy; none: nowhere, as in the paper (open_clip: 100)."""
    chunk_size: int = Field(default=1024, ge=1)
    """Images of a worker whose logits are in memory at once, each with the captions of one worker."""

    @model_validator(mode="after")
    def _starts_within(self) -> "SiglipSpec":
        _check_scale(self.initial_scale, self.max_scale)
        return self


ConceptMode = Literal["corenet", "nouns"]


class ConceptsSpec(Section):
    """Which WordNet concepts a caption names, and which of them are frequent enough to be a label."""

    mode: ConceptMode = "corenet"
    """``corenet``: every word, as the published code of CatLIP labels; ``nouns``: nouns by a tagger, with synonyms and
    names of several words, as its paper says (docs/objectives.md)."""
    noun_table: str | None = None
    """Another WordNet, as ``scripts/build_wordnet_table.py`` writes it: a URI, or a path below the cluster's
    ``storage.data``; none: WordNet 3.0 from the package."""
    tagger: str | None = None
    """``nouns`` only: NLTK's ``averaged_perceptron_tagger_eng.zip``, a URI or a path below ``storage.data``."""
    min_count: int = Field(default=500, ge=1)
    """Concepts seen in fewer captions are left out (the paper's V_tau)."""
    max_concepts: int | None = Field(default=None, ge=2)
    """Keep at most this many of the most frequent (24320 in the paper's DataComp runs)."""
    max_concepts_per_image: int = Field(default=256, ge=1, le=4096)
    """Labels that an image can have; of more the rarest are left out, and counted. The published code has no bound; a
    batch needs one (4 bytes an image each), and 256 is more than captions of a hundred words name."""

    @model_validator(mode="after")
    def _tagged(self) -> "ConceptsSpec":
        if self.mode == "nouns" and self.tagger is None:
            raise ValueError("mode 'nouns' needs 'tagger', the path of NLTK's averaged_perceptron_tagger_eng.zip")
        if self.mode == "corenet" and self.tagger is not None:
            raise ValueError("mode 'corenet' uses no tagger; leave 'tagger' out, or set mode: nouns")
        return self


class CatlipSpec(ObjectiveSection, ConceptsSpec):
    """CatLIP: multi-label classification of the WordNet concepts in the caption (arXiv 2404.15653)."""

    implementation = "orchestrator.objectives.catlip:CatlipObjective"
    columns = (batch.IMAGE, batch.CONCEPTS)
    contrastive = False

    name: Literal["catlip"]
    vocabulary: str | None = None
    """A vocabulary made before (``concepts.parquet``), taken whole; none: what ``orchestrator label concepts`` counted
    with the same settings on the training captions, else counted when the job runs."""
    foreign_vocabulary: bool = False
    """Take a ``vocabulary`` that was counted on other shards than the job trains on."""
    labels: Literal["stream", "stored"] = "stream"
    """``stream``: captions are labelled as they are read; ``stored``: by ``orchestrator label concepts``, ahead."""
    no_concept: Literal["keep", "resample", "drop"] = "keep"
    """A caption without any label: trained on all the same, replaced as a bad sample is (without counting against
    ``data.max_skipped_fraction``), or filtered out of the plan (``stored`` labels only)."""
    bias_at_log_prior: bool = False
    """Start the classifier's bias at the log-odds of each concept instead of the paper's zero."""

    @model_validator(mode="after")
    def _labelled_ahead(self) -> "CatlipSpec":
        if self.no_concept == "drop" and self.labels != "stored":
            raise ValueError(
                "no_concept 'drop' must know all labels ahead; set labels: stored, or no_concept: resample"
            )
        return self


def _or_installed(value: Any, validate: ModelWrapValidatorHandler[Any]) -> Any:
    from orchestrator.spec.installed import validate_installed

    if isinstance(value, ObjectiveSection):
        return value
    installed = validate_installed(value)
    return validate(value) if installed is None else installed


ObjectiveSpec = Annotated[
    ClipSpec | SiglipSpec | CatlipSpec,
    Field(discriminator="name"),
    WrapValidator(_or_installed),
    SerializeAsAny(),
]
