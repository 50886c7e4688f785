"""The kinds of job that a job file can hold: the union that ``load.py`` reads."""

from typing import Annotated

from pydantic import Field

from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.job import EvaluateSpec, PrepareSpec, PretrainSpec

Job = PretrainSpec | EvaluateSpec | PrepareSpec | CompareSpec
JobSpec = Annotated[Job, Field(discriminator="kind")]
