"""A Ray that runs already and takes jobs from other machines: the section ``submit``."""

from typing import Annotated

from pydantic import Field

from orchestrator.spec.nodes import EnvName
from orchestrator.spec.section import Section


class SubmitSpec(Section):
    """How ``orchestrator submit`` reaches a cluster. Ray's token comes from the environment, never from a file here."""

    dashboard: Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$")]
    """URL of Ray's dashboard, such as ``https://ray.example.org:8265``. Plain ``http`` shows the token to the network:
    for the loopback (a tunnel) and networks of your own."""
    ca_file: str | None = None
    """File of certificates that vouch for the dashboard's own, which is always verified; none: the system's."""
    wheel: str | None = None
    """A wheel of this package that travels with every job; none: the cluster's image has the package."""
    secrets: tuple[EnvName, ...] = ()
    """Variables with secrets that jobs need and the cluster's own environment has; their names alone travel."""
    patience_s: float = Field(default=60.0, ge=0)
    """How long a cluster that does not answer is tried."""
