"""What judges a model: evaluation sets, probes and their settings."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.spec.section import Section

Probe = Literal["zero_shot", "linear_probe", "nearest_neighbours", "few_shot", "fine_tune", "retrieval"]


class NearestNeighboursSpec(Section):
    """A vote of the most similar training rows."""

    k: int = Field(default=20, ge=1)
    """Rows that vote; a smaller training part votes as a whole."""
    temperature: float = Field(default=0.07, gt=0)
    """A vote counts exp(cosine / temperature): the smaller, the more the nearest decide."""


class FewShotSpec(Section):
    """A linear probe on a few training rows of each class."""

    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2, 4, 8, 16), min_length=1)
    """Training rows of each class; what a class is too small for is left out and said."""
    draws: int = Field(default=5, ge=2)
    """How many times the rows are drawn; the score is the mean."""


class FineTuneSpec(Section):
    """Training of the whole vision tower on a share of the labels; minutes to hours, by far the dearest probe."""

    targets: tuple[str, ...] = ()
    """Targets of the sets that it is done for; none: all."""
    label_fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.01, 0.1, 1.0), min_length=1)
    """Shares of the training rows, each trained on anew."""
    from_random_weights: bool = True
    """Do the same from random weights, to compare with."""
    head: Literal["zeros", "synset_rows"] = "zeros"
    """What the head starts at; ``synset_rows``: with CatLIP's classifier, each class at the row of the concept nearest
    to it (``min_synset_similarity``), or at a random row where none is near; without one at zeros."""
    steps: int = Field(default=300, ge=1)
    """Optimizer steps, the same at every share."""
    batch_size: int = Field(default=64, ge=2)
    """Rows of a step; fewer where there are fewer."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Of the head, at its highest."""
    layer_decay: float = Field(default=0.75, gt=0, le=1)
    """What the learning rate is multiplied by from a layer to the one below; 1 from random weights."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW's, of matrices."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of a target that is spread over all classes."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Probability with which a row passes the last layer by; less for those below."""
    mixup: float = Field(default=0.2, ge=0)
    """Both parameters of the beta distribution from which shares of two mixed images are drawn; 0: none are mixed."""

    def say_unknown(self, known: Iterable[str]) -> str:
        """What is wrong with ``targets`` where the sets have the ``known`` ones; empty: nothing."""
        unknown = sorted({*self.targets} - {*known})
        return f"evaluation.fine_tune.targets names {unknown}; the sets have {sorted({*known})}" if unknown else ""


Layout = Literal["shards", "clip_benchmark", "coco", "karpathy", "image_folder"]


class LayoutSpec(Section):
    """How to read one set, where its own files do not say it (docs/evaluation.md); files are URIs, or paths in it."""

    layout: Layout | None = None
    """How its files lie; none: what the folder holds tells."""
    split: str | None = None
    """The part that is judged, by its name in the set; none: ``test`` or ``val``, whichever there is."""
    train_samples: int | None = Field(default=None, ge=10)
    """Fit probes to this many rows of the set's part ``train``, and judge them on all rows of the judged part; none:
    the judged part itself is dealt out. The rows are encoded at each evaluation."""
    class_names: str | None = None
    """Text file of what prompts call the classes, one a line, in their order or each behind its class; none:
    ``classnames.txt`` in the set, or what its folders are called (WordNet's ids by WordNet's words)."""
    templates: str | None = None
    """Text file of zero-shot prompts, one a line, with ``{}`` or ``{c}`` where the class goes; none:
    ``zeroshot_classification_templates.txt`` in the set, or a few plain ones."""
    only_classes: str | None = None
    """Text file of classes, or of their positions from 0, one a line: prompts and rows of others are left out."""


class EvaluationSpec(Section):
    """Evaluation sets, judged at the end and, if asked, every N steps."""

    sets: tuple[str, ...] = ()
    """Labelled shards, or sets of a public layout: URIs, or paths below the cluster's ``storage.data``."""
    layouts: dict[str, LayoutSpec] = Field(default_factory=dict)
    """How to read sets of a public layout, by their place in ``sets``; each may be left out."""
    probes: tuple[Probe, ...] = ("zero_shot", "linear_probe", "nearest_neighbours", "retrieval")
    """What judges (docs/evaluation.md); ``few_shot`` (dozens of small fits a target) and ``fine_tune`` (training) only
    where they are asked for."""
    nearest_neighbours: NearestNeighboursSpec = NearestNeighboursSpec()
    few_shot: FewShotSpec = FewShotSpec()
    fine_tune: FineTuneSpec = FineTuneSpec()
    caption_fields: tuple[str, ...] = ("txt",)
    """Tar member extensions (or Parquet columns) whose lines are an image's captions, for retrieval."""
    weights: Literal["raw", "ema", "both"] = "both"
    """Judge the trained weights, their moving average, or both; without ``ema`` in the job there are only raw ones."""
    every_steps: int | None = Field(default=None, ge=1)
    """Steps between evaluations; none: at the end only."""
    max_samples: int | None = Field(default=None, ge=10)
    """Read at most this many rows of a set, of labelled shards the first, else evenly spaced; none: all."""
    min_synset_similarity: float = Field(default=0.5, gt=0, le=1)
    """CatLIP's zero-shot, and ``fine_tune.head``: WordNet path similarity from which a concept stands for a class
    (0.5: one step away)."""

    @model_validator(mode="after")
    def _layouts_of_sets(self) -> "EvaluationSpec":
        if unknown := sorted(set(self.layouts) - set(self.sets)):
            raise ValueError(f"layouts names {unknown}, which are not in sets: {list(self.sets)}")
        return self

    @model_validator(mode="after")
    def _own_names(self) -> "EvaluationSpec":
        by_name: dict[str, str] = {}
        for location in self.sets:
            name = set_name(location)
            if name in by_name:
                raise ValueError(
                    f"sets has '{by_name[name]}' and '{location}', which metrics both call '{name}'; wanted a name of "
                    f"its own for each: leave one out, or rename its folder"
                )
            by_name[name] = location
        return self


def set_name(location: str) -> str:
    """What metrics call an evaluation set."""
    return location.strip("/").replace("/", "-")
