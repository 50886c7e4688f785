"""The base of every Spec and Plan section: frozen, unknown keys refused, a docstring under every field."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """An immutable part of a job, a cluster or a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
