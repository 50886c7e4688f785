"""Which samples of a folder of shards a job trains on: lists of keys or uids, and predicates on metadata columns."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.spec.section import Section

SHARD_KEY = "key"
"""The name that every sample answers to: its key in a tar shard, else the column of that name."""

ListLocation = Annotated[str, Field(pattern=r"\.(npy|parquet)$")]
Value = str | bool | int | float
Kind = Literal["text", "numbers", "true/false"]


class PredicateSpec(Section):
    """What a metadata column must say of a sample: a range of numbers, or one of some values."""

    min: float | None = None
    """Least number that is kept; none: no lower end."""
    max: float | None = None
    """Greatest number that is kept; none: no upper end."""
    one_of: tuple[Value, ...] | None = None
    """The values that are kept: all text, all numbers or all true/false; instead of a range."""
    keep_missing: bool = False
    """Keep samples whose value is null (or not a number); off: they are filtered."""

    @model_validator(mode="after")
    def _possible(self) -> "PredicateSpec":
        is_range = self.min is not None or self.max is not None
        if is_range == (self.one_of is not None):
            raise ValueError(
                f"wanted either min and max (or one of them) or one_of; given {'both' if is_range else 'none'}"
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"no number is at least {self.min:g} and at most {self.max:g}; wanted min <= max")
        if self.one_of is not None:
            _check_values(self.one_of)
        return self

    @property
    def kind(self) -> Kind:
        """What a column must hold for the question to make sense."""
        return "numbers" if self.one_of is None else _kind(self.one_of[0])


class SelectionSpec(Section):
    """A sample stays when it is on ``allow``, not on ``deny``, and every predicate of ``where`` holds."""

    allow: ListLocation | None = None
    """List of the only samples that stay, .npy or .parquet: a URI, or a path below the cluster's ``storage.data``."""
    deny: ListLocation | None = None
    """List of samples that do not stay; the same forms. A sample whose ``list_by`` is null is on no list."""
    list_by: str = Field(default=SHARD_KEY, min_length=1)
    """What the lists hold: ``key`` (folder and base name of a sample's files up to the first dot; in Parquet shards
    the column of that name), or the name of a metadata column such as ``uid``."""
    where: dict[str, PredicateSpec] = Field(default_factory=dict)
    """Metadata column to what it must say; a column of Parquet shards, of the .parquet beside a tar shard, or a key
    of its samples' .json."""

    @model_validator(mode="after")
    def _selects(self) -> "SelectionSpec":
        lists = [location for location in (self.allow, self.deny) if location is not None]
        if not lists and not self.where:
            raise ValueError("it filters nothing; give at least one of allow, deny, where, or leave the selection out")
        if not lists and self.list_by != SHARD_KEY:
            raise ValueError(f"list_by is '{self.list_by}', but neither allow nor deny names a list")
        if len(lists) == 2 and self.allow == self.deny:
            raise ValueError(f"allow and deny are the same list, {self.allow}: no sample would stay")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be known of each sample, once each: ``list_by`` where there are lists, and those of ``where``."""
        listed = [self.list_by] if self.allow or self.deny else []
        return tuple(dict.fromkeys([*listed, *self.where]))


def _kind(value: Value) -> Kind:
    if isinstance(value, str):
        return "text"
    return "true/false" if isinstance(value, bool) else "numbers"


def _check_values(values: tuple[Value, ...]) -> None:
    if not values:
        raise ValueError("one_of is empty: no sample would stay; name at least one value")
    kinds = sorted({_kind(value) for value in values})
    if len(kinds) > 1:  # YAML reads a bare no, on or 12 as something other than text
        raise ValueError(f"one_of mixes {' and '.join(kinds)}: {list(values)}; write text in quotes")
