"""What a job of kind ``compare`` says: objectives that are trained alike, and how they are judged."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.spec.job import BudgetSpec, Experiment, Name, PretrainSpec, SeedSpec, TrainingSpec
from orchestrator.spec.objective import CatlipSpec, ObjectiveSection, ObjectiveSpec, SiglipSpec
from orchestrator.spec.search import MAX_TRIALS, DomainSpec, SearchSpec
from orchestrator.spec.section import Section
from orchestrator.spec.trial_job import build_job

Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*(-[a-z0-9_]+)*$", max_length=30)]
Mode = Literal["controlled", "recipe"]

_CONTROLLED_KEYS = ("optimizer.learning_rate", "optimizer.betas")
# What every objective of a comparison has alike, whatever its mode: the judges, the data, the budget.
_SHARED_SECTIONS = {
    "kind", "name", "experiment", "seed", "budget", "evaluation", "ema", "workers", "checkpoint", "faults",
    "log_every_steps",
}  # fmt: skip
_SHARED_KEYS = {"objective.name", "data.kind", "data.train", "data.heldout", "data.epoch_samples"}


class CompareBudgetSpec(BudgetSpec):
    """What every objective gets; exactly one. Seconds and FLOPs become steps before the first run starts."""

    train_seconds: float | None = Field(default=None, gt=0)
    """Seconds in steps and in waiting for data; start-up, checkpoints and evaluation left out."""
    device_seconds: float | None = Field(default=None, gt=0)
    """The same times the workers of a run."""
    flops: float | None = Field(default=None, gt=0)
    """Training FLOPs of all workers (matrix products): the forward pass and twice as much backward for what is trained;
    what is computed again to save memory does not count."""

    @property
    def seconds(self) -> bool:
        """Whether only a calibration can say how many steps it buys."""
        return self.train_seconds is not None or self.device_seconds is not None

    def in_words(self) -> str:
        """Such as ``20,000 samples``."""
        words = {
            "steps": "steps",
            "samples": "samples",
            "epochs": "epochs",
            "train_seconds": "s of training",
            "device_seconds": "device seconds of training",
            "flops": "training FLOPs",
        }
        key = next(key for key in words if getattr(self, key) is not None)
        value = getattr(self, key)
        return f"{value:.3g} {words[key]}" if key == "flops" else f"{value:,} {words[key]}"


class ObjectiveEntrySpec(Section):
    """One of the things that are compared."""

    label: Label
    """What tables and runs call it."""
    objective: ObjectiveSpec
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Its own values of keys of the shared block, such as ``optimizer.learning_rate: 5.0e-4``. Of mode ``controlled``
    only the learning rate and the betas."""
    search: dict[str, DomainSpec] = Field(default_factory=dict)
    """Where to look for better values, by key, within the same keys; none: it stays untuned."""


class CompareSpec(Section):
    """A job that trains several objectives under one budget and judges them alike."""

    kind: Literal["compare"]
    name: Name
    """The comparison's name; running the same name again goes on with it. Its runs are called after it."""
    experiment: Experiment = "vl-orchestrator"
    """MLflow experiment that holds its runs; a name of 1 to 200 characters."""
    mode: Mode
    """``controlled``: the same towers, data, augmentation, batch and schedule for all, so that only loss, head,
    learning rate and betas differ; ``recipe``: each objective as its paper has it."""
    run: TrainingSpec
    """What the runs share: the keys of a pretrain job but for name, objective, seed and budget."""
    objectives: tuple[ObjectiveEntrySpec, ...] = Field(min_length=2, max_length=26)
    replicates: Annotated[int, Field(ge=1, le=100)] | tuple[Annotated[int, Field(ge=0, lt=2**30)], ...] = 3
    """Runs of each objective that count, or their seeds; the i-th has the same seeds and data order for every
    objective. A verdict needs three."""
    budget: CompareBudgetSpec
    primary_metric: str
    """The score that decides, ``eval/<set>/<probe>/<target or group>/<score>``, such as
    ``eval/scenes-eval/linear_probe/all/mean_accuracy``; every objective must have it. All others are descriptive."""
    weights: Literal["raw", "ema"] = "raw"
    """Which weights are judged, of all objectives alike."""
    search: SearchSpec | None = None
    """How the objectives' search spaces are searched before the runs that count; none: nothing is searched."""
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = None
    """Shares of the budget at which every replicate's curve has a point whose schedule ended there: a cooldown is
    branched off it, and the schedule is ``wsd`` where it is not given. None: where the search ends trials early, at
    its rungs, unless a schedule is given or batches change with the image size; an empty list: nowhere."""
    baselines: tuple[str, ...] = ()
    """Runs that exist, imported ones too, judged alike once the trials have ended; names below the cluster's
    ``storage.runs``, or folders. They stand in the tables and have no part in the verdict."""
    trials_at_once: int | None = Field(default=None, ge=1)
    """Most runs side by side; none: as many as the cluster holds."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the replicates, in order."""
        return tuple(range(self.replicates)) if isinstance(self.replicates, int) else self.replicates

    @property
    def search_seed(self) -> int:
        """Of all search trials: none of the replicates', so that nothing is chosen for the luck of one of them."""
        return max(self.seeds) + 1

    @property
    def num_search_trials(self) -> int:
        """Of all objectives."""
        if self.search is None:
            return 0
        return sum(self.search.num_trials(entry.search) for entry in self.objectives if entry.search)

    @property
    def cooldown_rungs(self) -> tuple[float, ...]:
        """Shares of the budget at which cooldowns end."""
        if self.rungs is not None:
            return self.rungs
        has_own_batches = any(phase.global_sizes for phase in self.run.model.resolutions)
        return () if self.search is None or self._says_schedule or has_own_batches else self.search.rungs

    @property
    def training(self) -> TrainingSpec:
        """``run`` with what follows from the rest of the job: cooldowns branch off a constant rate."""
        if self._says_schedule or not self.cooldown_rungs:
            return self.run
        return self.run.model_copy(update={"schedule": self.run.schedule.model_copy(update={"kind": "wsd"})})

    @property
    def _says_schedule(self) -> bool:
        return "kind" in self.run.schedule.model_fields_set

    @model_validator(mode="after")
    def _distinct(self) -> "CompareSpec":
        labels = [entry.label for entry in self.objectives]
        if len(set(labels)) < len(labels):
            raise ValueError(f"objectives have the labels {', '.join(labels)}; wanted each once")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"replicates are the seeds {list(self.seeds)}; wanted at least one, each once")
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError(f"baselines are {', '.join(self.baselines)}; wanted each once")
        if self.weights == "ema" and self.run.ema is None:
            raise ValueError("weights is 'ema', but run.ema is not given; add run.ema.decay, or set weights: raw")
        return self

    @model_validator(mode="after")
    def _searched(self) -> "CompareSpec":
        searched = [entry for entry in self.objectives if entry.search]
        if self.search is None:
            if searched:
                raise ValueError(
                    f"objective '{searched[0].label}' has a search space, but 'search' does not say how many trials; "
                    f"add search.trials, or leave its 'search' out"
                )
            return self
        if not searched:
            raise ValueError("search is given, but no objective has a search space; add 'search' to one, or leave it")
        if self.search.algorithm == "grid":
            _check_grid(self.search, searched)
        numbers = {entry.label: self.search.num_trials(entry.search) for entry in searched}
        if len(set(numbers.values())) > 1:
            said = ", ".join(f"{label} {number}" for label, number in numbers.items())
            raise ValueError(f"every objective gets as many search trials as the others; these spaces have {said}")
        return self

    @model_validator(mode="after")
    def _fair(self) -> "CompareSpec":
        for entry in self.objectives:
            for key in (*entry.overrides, *entry.search):
                if not _is_free(key, self.mode):
                    raise ValueError(_not_free(entry.label, key, self.mode))
            if both := sorted(entry.overrides.keys() & entry.search.keys()):
                raise ValueError(f"objective '{entry.label}' both overrides and searches {both[0]}; keep one")
            for job in _build_corners(self.run, entry):
                if self.mode == "controlled":
                    _check_controlled(entry.label, job.objective)
            if self.cooldown_rungs:
                _check_constant_rate(self, entry)
        if list(self.rungs or ()) != sorted(set(self.rungs or ())):
            raise ValueError(f"rungs are {list(self.rungs or ())}; wanted rising shares of the budget")
        return self


def _check_constant_rate(spec: CompareSpec, entry: ObjectiveEntrySpec) -> None:
    """Where there are cooldowns, every replicate has a rate that stays, and no trial chooses how long."""
    kind = entry.overrides.get("schedule.kind", spec.training.schedule.kind)
    if kind != "wsd":
        raise ValueError(
            f"objective '{entry.label}': schedule.kind is '{kind}', but the cooldowns of 'rungs' branch off a constant "
            f"rate; set schedule.kind: wsd, or rungs: [] for none"
        )
    if searched := [key for key in entry.search if key.startswith("schedule.")]:
        raise ValueError(
            f"objective '{entry.label}' searches {searched[0]}, but 'rungs' fixes where cooldowns begin; leave it out, "
            f"or set rungs: [] for none"
        )


def _is_free(key: str, mode: Mode) -> bool:
    """Whether a key may be one objective's own."""
    section = key.partition(".")[0]
    if (
        "." not in key
        or section in _SHARED_SECTIONS
        or any(key == at or key.startswith(f"{at}.") for at in _SHARED_KEYS)
    ):
        return False
    return mode == "recipe" or section == "objective" or key in _CONTROLLED_KEYS


def _not_free(label: str, key: str, mode: Mode) -> str:
    if mode == "controlled" and _is_free(key, "recipe"):
        free = ", ".join(_CONTROLLED_KEYS)
        return (
            f"objective '{label}': {key} is the same for all objectives of a controlled comparison; of its own are "
            f"objective.* and {free}. Move it to 'run', or set mode: recipe"
        )
    return f"objective '{label}': {key} is the same for all objectives of a comparison; set it in 'run', for all"


def _check_grid(search: SearchSpec, entries: list[ObjectiveEntrySpec]) -> None:
    for entry in entries:
        if without := [key for key, domain in entry.search.items() if domain.choice is None]:
            raise ValueError(f"objective '{entry.label}': a grid needs choices, but {without[0]} has a range")
        if (number := search.num_trials(entry.search)) > MAX_TRIALS:
            raise ValueError(
                f"objective '{entry.label}': the choices of {', '.join(entry.search)} combine to {number:,} trials; "
                f"wanted at most {MAX_TRIALS:,}: name fewer, or set search.algorithm: random and search.trials"
            )


def _check_controlled(label: str, objective: ObjectiveSection) -> None:
    if isinstance(objective, SiglipSpec) and objective.towers != "clip":
        raise ValueError(
            f"objective '{label}': towers '{objective.towers}' are pooled otherwise than CLIP's; a controlled "
            f"comparison needs objective.towers: clip (or mode: recipe)"
        )
    if isinstance(objective, CatlipSpec) and objective.no_concept != "keep":
        raise ValueError(
            f"objective '{label}': no_concept '{objective.no_concept}' trains on other samples than the others "
            f"see; a controlled comparison needs objective.no_concept: keep (or mode: recipe)"
        )


def _build_corners(training: TrainingSpec, entry: ObjectiveEntrySpec) -> Iterator[PretrainSpec]:
    """A job with the overrides, and one with each end of the search space and a number within each of its ranges:
    values that a job must take.
    """
    yield _build_corner(training, entry, {})
    for key, domain in entry.search.items():
        for value in domain.ends:
            yield _build_corner(training, entry, {key: value})
        if domain.inner is not None:
            yield _build_corner(training, entry, {key: domain.inner}, "; list what such a key takes as 'choice'")


def _build_corner(
    training: TrainingSpec, entry: ObjectiveEntrySpec, settings: dict[str, Any], advice: str = ""
) -> PretrainSpec:
    try:
        return build_job(
            training,
            entry.objective,
            {**entry.overrides, **settings},
            name="trial",
            experiment="trial",
            seed=SeedSpec(),
            budget=BudgetSpec(steps=1),
        )
    except ValueError as error:
        raise ValueError(f"objective '{entry.label}': {error}{advice}") from error
