"""What an evaluation set asks: its targets, their classes and the prompts that name them (``targets.json``).

The file is ``{"targets": {name: fields of TargetSpec}}``; the rows' own labels travel with the rows. Sets of public
layouts have none: what they ask follows from their own files (``data/labelled``).
"""

import re
from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from orchestrator.errors import EvaluationError
from orchestrator.spec.section import Section

TARGETS_FILE = "targets.json"
"""Its name, beside the shards."""

PLACEHOLDER = "{}"
MAX_TARGETS_BYTES = 16 * 1024**2

_WNID = re.compile(r"n\d{8}")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]  # stands in a metric's name


class TargetSpec(Section):
    """One thing to tell about an image, as exactly one of ``classes``, or as any number of them."""

    classes: tuple[str, ...] = Field(min_length=2)
    """Every label a row can carry, as text."""
    multi_label: bool = False
    """A row carries a list of classes, which may be empty, instead of one class."""
    field: str | None = Field(default=None, min_length=1)
    """Tar member extension (or Parquet column) that holds a row's label and nothing else, such as ``cls``; of several
    labels a JSON list, or one a line. None: the label stands in the row's JSON, under the target's name."""
    labels: Literal["class", "position"] = "class"
    """Rows carry the class itself, or its position in ``classes``, counted from 0."""
    named_in_captions: bool
    """Whether training captions name this target, that is, whether a text tower had a chance to learn its words."""
    templates: tuple[str, ...] = ()
    """Zero-shot prompts with ``{}`` where the class goes; none: the target has no zero-shot classifier."""
    names: dict[str, str] = Field(default_factory=dict)
    """Class to what prompts call it, where that is not the class itself (``n01440764``: tench)."""
    hypernyms: dict[str, str] = Field(default_factory=dict)
    """Class to the more general word that captions call it by, and prompts therefore too."""

    @model_validator(mode="after")
    def _consistent(self) -> "TargetSpec":
        if twins := [label for label, number in Counter(self.classes).items() if number > 1]:
            raise ValueError(f"classes holds one class twice ({twins[0]!r}); every class must stand there once")
        for template in self.templates:
            if PLACEHOLDER not in template:
                raise ValueError(f"template {template!r} has no {PLACEHOLDER} for the class to stand in")
        for mapping in ("names", "hypernyms"):
            if unknown := sorted(set(getattr(self, mapping)) - set(self.classes)):
                raise ValueError(f"{mapping} names {unknown}, which are not in classes")
        return self

    def words_of(self, label: str) -> str:
        """What captions call one class."""
        return self.hypernyms.get(label, self.names.get(label, label))

    def concept_of(self, label: str) -> str:
        """What WordNet calls one class: its id, where it is one, since a name has several senses."""
        return label if _WNID.fullmatch(label) else self.words_of(label)

    @property
    def concepts(self) -> list[str]:
        """What WordNet calls each of the classes."""
        return [self.concept_of(label) for label in self.classes]

    def prompts_of(self, label: str) -> list[str]:
        """The prompts of one class, in the order of the templates."""
        words = self.words_of(label)
        return [template.replace(PLACEHOLDER, words) for template in self.templates]


class _TargetsFile(Section):
    targets: dict[Name, TargetSpec] = Field(min_length=1)


def load_targets(data: bytes, source: str = TARGETS_FILE) -> dict[str, TargetSpec]:
    """Reads the bytes of a ``targets.json``; ``source`` is what an error calls the file.

    Raises:
        EvaluationError: too large, not JSON, or a field that is missing, unknown or wrong (all are listed).
    """
    if len(data) > MAX_TARGETS_BYTES:
        raise EvaluationError(f"{source} has {len(data):,} bytes; at most {MAX_TARGETS_BYTES:,} are read")
    try:
        return _TargetsFile.model_validate_json(data).targets
    except ValidationError as error:
        raise EvaluationError(f"{source} does not describe evaluation targets: {say_faults(error)}") from error


def say_faults(error: ValidationError) -> str:
    """All that is wrong with a target, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'as a whole'}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_input=False)
    )
