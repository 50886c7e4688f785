"""The base of every Spec and Plan section: frozen, unknown keys and infinity refused, a docstring under every field."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """An immutable part of a job, a cluster or a plan."""

    # JSON has no word for infinity or nan: a plan would come back from its file as another one.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
