"""What a comparison found: one record per trial, as the driver writes it and reports read it.

The records hold numbers and places only; what follows from them (intervals, verdict) is computed from them again, so
that a report of an old comparison gains from better statistics.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from orchestrator.spec.section import Section

COMPARISON_FILE = "comparison.json"
"""Its name, in the comparison's folder."""


def _without_null(scores: Any) -> Any:
    return {name: value for name, value in scores.items() if value is not None} if isinstance(scores, dict) else scores


Scores = Annotated[dict[str, float], BeforeValidator(_without_null)]
"""By full metric name, such as ``eval/scenes-eval/linear_probe/shape/accuracy``. A file may hold null for one that was
not finite, which is then not there."""

TrialStatus = Literal["waiting", "running", "finished", "stopped", "failed"]


class CurvePoint(Section):
    """Scores that a budget bought."""

    step: int
    samples: int
    """Training samples seen."""
    train_s: float
    """Seconds in steps and in waiting for data, evaluation and start-up left out."""
    flops: float
    """Training FLOPs of all workers."""
    scores: Scores
    schedule_ended: bool
    """Whether the learning rate had decayed to its end there; other points are drawn as in mid-schedule."""


class TrialCost(Section):
    """What a trial took; lost attempts included."""

    wall_s: float = 0.0
    step_s: float = 0.0
    """Seconds in optimizer steps."""
    data_wait_s: float = 0.0
    evaluation_s: float = 0.0
    device_s: float = 0.0
    """(step_s + data_wait_s) x workers."""
    flops: float = 0.0
    samples: int = 0
    samples_per_s: float | None = None
    attempts: int = 0


class TrialResult(Section):
    """One run inside a comparison."""

    objective: str
    """Label of the objective in the comparison's file."""
    phase: Literal["search", "verdict", "cooldown"]
    """``search``: looks for settings, judged on validation rows; ``verdict``: a replicate, judged on test rows;
    ``cooldown``: branched off a replicate, for a point of its curve."""
    replicate: int
    """Replicates with the same number saw the same data in the same order."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What the search chose, by key of the job file."""
    run: str
    run_uri: str
    mlflow_run_id: str | None = None
    checkpoint_uri: str = ""
    status: TrialStatus
    reason: str = ""
    """Why it stopped or failed."""
    steps: int
    """Up to the end of its schedule; a cooldown trains the last of them."""
    step: int = 0
    """That its weights have seen."""
    cost: TrialCost = TrialCost()
    scores: Scores = Field(default_factory=dict)
    """At its end."""
    curve: tuple[CurvePoint, ...] = ()
    duplicate_caption_fraction: float | None = None
    """Mean share of captions of a global batch that another image of it has, too; none: it reads no captions."""
    ledger: dict[str, int] = Field(default_factory=dict)
    """Totals: ``expected``, ``trained_once``, ``repeated``, ``skipped``, ..."""


class ObjectiveEntry(Section):
    """One of the things that are compared."""

    label: str
    tuned: bool
    """Whether anything was searched for it."""
    num_search_trials: int = 0
    chosen: dict[str, Any] = Field(default_factory=dict)
    """The search's choice, with which the replicates ran."""
    prepared: dict[str, float] = Field(default_factory=dict)
    """Seconds that its vocabularies or tokenizers took, by place; charged to all that use one, whoever made it."""

    @property
    def prepare_s(self) -> float:
        """Seconds of all that was made for it."""
        return sum(self.prepared.values())


class ComparisonResult(Section):
    """All that is known of a comparison so far; ``comparison.json`` in its folder."""

    name: str
    mode: Literal["controlled", "recipe"]
    primary_metric: str
    higher_is_better: bool = True
    budget: str
    """In words, such as ``20,000 samples`` or ``600 s of training``."""
    objectives: tuple[ObjectiveEntry, ...]
    trials: tuple[TrialResult, ...]
    weights: Literal["raw", "ema"] = "raw"
    """Which weights were judged, of all alike."""
    mlflow_run_id: str | None = None
    """The parent of its runs."""
    tracking_uri: str = ""
    plan: dict[str, Any] = Field(default_factory=dict)
    """The resolved comparison, as ``plan --json`` shows it."""
    baselines: tuple[TrialResult, ...] = ()
    """Runs that were not trained here (imported weights), as rows without a part in the verdict."""

    @property
    def replicates(self) -> tuple[TrialResult, ...]:
        """The trials that count."""
        return tuple(trial for trial in self.trials if trial.phase == "verdict")

    def cooldowns_of(self, replicate: TrialResult) -> tuple[TrialResult, ...]:
        """The runs that were branched off a replicate."""
        return tuple(
            trial
            for trial in self.trials
            if (trial.objective, trial.replicate, trial.phase) == (replicate.objective, replicate.replicate, "cooldown")
        )

    def searched(self, label: str) -> tuple[TrialResult, ...]:
        """An objective's search trials."""
        return tuple(trial for trial in self.trials if (trial.objective, trial.phase) == (label, "search"))

    def search_s(self, label: str) -> float:
        """Seconds of an objective's search trials, start-up and checkpoints left out."""
        costs = [trial.cost for trial in self.searched(label)]
        return sum(cost.step_s + cost.data_wait_s + cost.evaluation_s for cost in costs)

    def primary_scores(self, label: str) -> list[float]:
        """The primary metric of an objective's finished replicates, in their order."""
        return [
            trial.scores[self.primary_metric]
            for trial in self.trials
            if (trial.objective, trial.phase, trial.status) == (label, "verdict", "finished")
            and self.primary_metric in trial.scores
        ]
