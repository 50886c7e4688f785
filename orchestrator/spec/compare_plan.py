"""The ComparePlan: a comparison resolved for a cluster (``resolve_compare.py`` does that)."""

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from orchestrator.spec.batches import Batches
from orchestrator.spec.compare import Mode
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.plan import TrackingPlan
from orchestrator.spec.resolve_batch import resolve_batches
from orchestrator.spec.search import DomainSpec, SearchSpec
from orchestrator.spec.section import Section

Phase = Literal["search", "verdict", "cooldown"]

# When replicates are judged on their way changes no score of their end; the weights are the comparison's own.
_NO_JUDGES = {"every_steps", "weights"}


class TrialPlan(Section):
    """One run of a comparison."""

    objective: str
    """Label of the objective."""
    phase: Phase
    """``search``: looks for settings, judged on validation rows; ``verdict``: a replicate, judged on test rows;
    ``cooldown``: branched off a replicate, for a point of its curve."""
    replicate: int
    """Of the verdict and its cooldowns, its number; those of all objectives with the same number see the same data in
    the same order. Search trials all share one seed, that of no replicate."""
    settings: dict[str, Any]
    """What it tries, by key of a job file; a verdict's come from the search, and a search's may from earlier trials."""
    job: PretrainSpec
    """Without the settings that it is given later."""
    steps: int
    """Up to the end of its schedule."""
    flops: float
    """Of the steps that it trains itself."""

    @property
    def run(self) -> str:
        """Its name."""
        return self.job.name

    @property
    def first_step(self) -> int:
        """The first that it trains, from 0."""
        return 0 if self.job.start is None else self.job.start.step

    @property
    def own_steps(self) -> int:
        """That it trains itself."""
        return self.steps - self.first_step

    @property
    def samples(self) -> int:
        """That it trains on itself."""
        return self.batches.start(self.steps) - self.batches.start(self.first_step)

    @property
    def batches(self) -> Batches:
        """Its global batches."""
        return resolve_batches(self.job)


class SharePlan(Section):
    """What each of the runs that go on side by side has to itself."""

    at_once: int
    """Runs side by side."""
    workers: int
    num_cores: int
    num_cpus: int
    """Logical CPUs, those of its workers included."""
    object_store_bytes: int


class ComparePlan(Section):
    """A compare job, resolved: the runs, their budget, and how many of them go on at once."""

    kind: Literal["compare"] = "compare"
    name: str
    run_uri: str
    """Its folder; those of its runs lie beside it."""
    mode: Mode
    budget: str
    """In words."""
    primary_metric: str
    higher_is_better: bool
    weights: Literal["raw", "ema"]
    search: SearchSpec | None
    spaces: dict[str, dict[str, DomainSpec]] = Field(default_factory=dict)
    """Of the objectives that are searched."""
    search_metric: str | None
    """What the search selects by."""
    rung_samples: dict[str, int] = Field(default_factory=dict)
    """Of each objective: the samples after which a search trial is judged first."""
    seconds_per_step: dict[str, float] = Field(default_factory=dict)
    """What a calibration measured, of a budget in seconds."""
    calibrated: bool = True
    """Whether the steps are known; those of a budget in seconds are once a calibration has run."""
    labels: tuple[str, ...]
    """Of the objectives."""
    trials: tuple[TrialPlan, ...]
    """Search first, cooldowns last."""
    rungs: tuple[float, ...] = ()
    """Shares of the budget at which the cooldowns of each replicate end."""
    same_order: bool
    """Whether replicate i shows the same samples in the same order to every objective, or only the same number."""
    share: SharePlan
    tracking: TrackingPlan
    evaluation_digests: dict[str, str] = Field(default_factory=dict)
    """Of each evaluation set, by its name in metrics; those without an index yet are left out."""
    identities: dict[str, dict[str, Any]]
    """By label: ``Plan.identity`` of its first replicate."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must stay the same when a comparison goes on."""
        verdict = [trial for trial in self.trials if trial.phase == "verdict"]
        own = {
            "mode": self.mode,
            "primary_metric": self.primary_metric,
            "weights": self.weights,
            "search": self.search.model_dump(mode="json") if self.search else None,
            "rungs": list(self.rungs),
            "replicates": [trial.job.seed.data for trial in verdict if trial.objective == self.labels[0]],
            "objectives": list(self.labels),
            "spaces": {label: _plain(space) for label, space in self.spaces.items()},
            "searched": {trial.run: trial.settings for trial in self.trials if trial.phase == "search"},
        }
        judges = verdict[0].job.evaluation.model_dump(mode="json", exclude=_NO_JUDGES)
        own |= {f"run.evaluation.{key}": value for key, value in judges.items()}
        own |= {f"evaluation set {name}": digest for name, digest in self.evaluation_digests.items()}
        of_objectives = {
            f"{label}: {key}": value for label, identity in self.identities.items() for key, value in identity.items()
        }
        return own | of_objectives

    @property
    def digest(self) -> str:
        """Short name of :attr:`identity`."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    def trials_of(self, label: str, phase: Phase) -> tuple[TrialPlan, ...]:
        """The runs of one objective in one phase."""
        return tuple(trial for trial in self.trials if (trial.objective, trial.phase) == (label, phase))


def _plain(space: dict[str, DomainSpec]) -> dict[str, Any]:
    return {key: domain.model_dump(mode="json", exclude_none=True) for key, domain in space.items()}
