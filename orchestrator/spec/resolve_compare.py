"""A comparison and a cluster become a ComparePlan: pure arithmetic, as ``resolve.py`` for one run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import PlanError
from orchestrator.spec.checkpoint import CheckpointSpec
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec, ObjectiveEntrySpec
from orchestrator.spec.compare_budget import PROBE_STEPS, check_search_budgets, part_of, resolve_budget
from orchestrator.spec.compare_cooldowns import Branch, cooldown_job, resolve_branches
from orchestrator.spec.compare_metric import resolve_metric, search_metric
from orchestrator.spec.compare_plan import ComparePlan, Phase, SharePlan, TrialPlan
from orchestrator.spec.compare_scores import AskedFacts
from orchestrator.spec.compare_share import resolve_share, resolve_shared
from orchestrator.spec.evaluation import EvaluationSpec, set_name
from orchestrator.spec.facts import Facts, VocabularyFacts
from orchestrator.spec.flops import training_flops
from orchestrator.spec.job import BudgetSpec, PretrainSpec, SeedSpec, TrainingSpec
from orchestrator.spec.load import join_uri
from orchestrator.spec.objective import CatlipSpec, ConceptsSpec, ObjectiveSection
from orchestrator.spec.plan import Plan, TrackingPlan
from orchestrator.spec.resolve import resolve_tracking_uri
from orchestrator.spec.trial_job import build_job, naming_settings

CALIBRATION_STEPS = 20
"""Steps of a calibration, after as many that warm it up."""
_LONGEST_NAME = 56  # a run's name has at most 63 characters, and says which trial of the objective it is


@dataclass(frozen=True)
class CompareFacts:
    """What ``resolve_compare`` must know besides the job and the cluster."""

    by_label: Mapping[str, Facts]
    asked: AskedFacts
    seconds_per_step: Mapping[str, float] = field(default_factory=dict)
    """What a calibration measured, by label; none: it has not run."""

    @property
    def vocabulary(self) -> VocabularyFacts | None:
        """By which the classes of evaluation sets are told apart, for all objectives alike: the first of theirs."""
        return shared_vocabulary(self.by_label)


def shared_vocabulary(by_label: Mapping[str, Facts]) -> VocabularyFacts | None:
    """The first that an objective has."""
    return next((facts.vocabulary for facts in by_label.values() if facts.vocabulary is not None), None)


def resolve_compare(spec: CompareSpec, cluster: ClusterSpec, facts: CompareFacts) -> ComparePlan:
    """Resolve a comparison for a cluster.

    Raises:
        PlanError: as ``resolve_plan`` for one of the runs; a primary metric that an objective lacks; a budget that is
            too small for one rung; a name that becomes too long.
    """
    metric = resolve_metric(spec, facts.asked)
    share = resolve_share(spec, cluster, next(iter(facts.by_label.values())).machine)
    resolver = _Resolver(spec, cluster, facts, share)
    search: list[TrialPlan] = []
    verdict: list[TrialPlan] = []
    for entry in spec.objectives:
        search += resolver.search_trials(entry)
    for replicate, seed in enumerate(spec.seeds):
        verdict += [resolver.verdict_trial(entry, replicate, seed) for entry in spec.objectives]
    cooldowns = [cooldown for trunk in verdict for cooldown in resolver.cooldowns(trunk)]
    plans = {trial.objective: resolver.plan(trial.objective, trial.job) for trial in verdict[: len(spec.objectives)]}
    return ComparePlan(
        name=spec.name,
        run_uri=join_uri(cluster.storage.runs, spec.name),
        mode=spec.mode,
        budget=spec.budget.in_words(),
        primary_metric=spec.primary_metric,
        higher_is_better=metric.higher_is_better,
        weights=spec.weights,
        search=spec.search,
        spaces={entry.label: entry.search for entry in spec.objectives if entry.search},
        search_metric=str(search_metric(spec, metric, facts.asked)) if spec.search else None,
        rung_samples=_rung_samples(search),
        seconds_per_step=dict(facts.seconds_per_step),
        calibrated=not spec.budget.seconds or bool(facts.seconds_per_step),
        labels=tuple(entry.label for entry in spec.objectives),
        trials=(*search, *verdict, *cooldowns),
        rungs=spec.cooldown_rungs,
        same_order=len({_order_key(plan) for plan in plans.values()}) == 1,
        share=share,
        tracking=TrackingPlan(uri=resolve_tracking_uri(cluster), experiment=spec.experiment),
        evaluation_digests=dict(facts.asked.digests),
        identities={label: plan.identity for label, plan in plans.items()},
    )


def trial_job(spec: CompareSpec, trial: TrialPlan, settings: Mapping[str, Any]) -> PretrainSpec:
    """The job of a trial with settings that the plan did not know.

    Raises:
        PlanError: values that no job takes together.
    """
    entry = next(entry for entry in spec.objectives if entry.label == trial.objective)
    with naming_settings(trial.run, settings):
        return build_job(
            trial_training(spec, trial.job.evaluation, trial.job.checkpoint),
            entry.objective,
            {**entry.overrides, **settings},
            name=trial.run,
            experiment=spec.experiment,
            seed=trial.job.seed,
            budget=trial.job.budget,
            start=trial.job.start,
        )


def probe_job(spec: CompareSpec, entry: ObjectiveEntrySpec, steps: int, name: str = "probe") -> PretrainSpec:
    """A job that stands for an objective's: to read facts for it, to count its FLOPs, to time it. It judges nothing."""
    return build_job(
        trial_training(spec, EvaluationSpec()),
        entry.objective,
        entry.overrides,
        name=name,
        experiment=spec.experiment,
        seed=SeedSpec(data=spec.search_seed, model=spec.search_seed),
        budget=BudgetSpec(steps=steps),
    )


def trial_training(
    spec: CompareSpec, evaluation: EvaluationSpec, checkpoint: CheckpointSpec | None = None
) -> TrainingSpec:
    """The shared block with an evaluation of the comparison's weights, and checkpoints of a trial's own.

    What has none of its own is shorter than a replicate, whose steps ``keep_steps`` counts.
    """
    own = checkpoint or spec.run.checkpoint.model_copy(update={"keep_steps": ()})
    judges = evaluation.model_copy(update={"weights": spec.weights})
    return spec.training.model_copy(update={"evaluation": judges, "checkpoint": own})


class _Resolver:
    """Resolves one run after the other, each for its share of the cluster."""

    def __init__(self, spec: CompareSpec, cluster: ClusterSpec, facts: CompareFacts, share: SharePlan) -> None:
        self._spec, self._facts, self._share = spec, facts, share
        self._cluster = cluster
        self._budgets = {entry.label: self._budget(entry) for entry in spec.objectives}

    def plan(self, label: str, job: PretrainSpec) -> Plan:
        """The Plan of one run."""
        return resolve_shared(job, self._cluster, self._facts.by_label[label], self._share)

    def search_trials(self, entry: ObjectiveEntrySpec) -> list[TrialPlan]:
        """What is tried for one objective."""
        search = self._spec.search
        if search is None or not entry.search:
            return []
        budget = part_of(self._budgets[entry.label], search.budget_fraction)
        alike = probe_job(self._spec, entry, 1).model_copy(update={"budget": budget})
        evaluation = self._search_evaluation(entry.label, self.plan(entry.label, alike).steps)
        seed = self._spec.search_seed
        return [
            self._trial(entry, "search", number, seed, settings, budget, evaluation)
            for number, settings in enumerate(search.settings(entry.search, entry.label))
        ]

    def verdict_trial(self, entry: ObjectiveEntrySpec, replicate: int, seed: int) -> TrialPlan:
        """One replicate, before the search has chosen its settings."""
        budget, evaluation = self._budgets[entry.label], self._spec.run.evaluation
        trial = self._trial(entry, "verdict", replicate, seed, {}, budget, evaluation)
        keep_steps = sorted(
            {*self._spec.run.checkpoint.keep_steps, *(branch.start for branch in self._branches(trial))}
        )
        if not keep_steps:
            return trial
        checkpoint = trial.job.checkpoint.model_copy(update={"keep_steps": tuple(keep_steps)})
        return trial.model_copy(update={"job": trial.job.model_copy(update={"checkpoint": checkpoint})})

    def cooldowns(self, trunk: TrialPlan) -> list[TrialPlan]:
        """The runs that are branched off a replicate."""
        found = []
        for branch in self._branches(trunk):
            job = cooldown_job(trunk.job, branch)
            trial = trunk.model_copy(update={"phase": "cooldown", "job": job, "steps": branch.end})
            flops = training_flops(self.plan(trunk.objective, job)) * trial.samples
            found.append(trial.model_copy(update={"flops": flops}))
        return found

    def _branches(self, trunk: TrialPlan) -> list[Branch]:
        if self._spec.budget.seconds and trunk.objective not in self._facts.seconds_per_step:
            return []  # its steps are not known before it is measured
        rungs = self._spec.cooldown_rungs
        if rungs and trunk.batches.phases:
            raise PlanError(
                f"rungs: batches of objective '{trunk.objective}' change with the image size (global_sizes of "
                f"model.resolutions), so a shorter run takes other samples in each step; set rungs: [] for none"
            )
        return resolve_branches(trunk.objective, trunk.job.schedule, trunk.steps, rungs)

    def _trial(
        self,
        entry: ObjectiveEntrySpec,
        phase: Phase,
        number: int,
        seed: int,
        settings: dict[str, Any],
        budget: BudgetSpec,
        evaluation: EvaluationSpec,
    ) -> TrialPlan:
        stem = f"{self._spec.name}--{entry.label}"
        if len(stem) > _LONGEST_NAME:
            raise PlanError(f"runs would be called {stem}-..., which is too long; shorten 'name' or the label")
        name = f"{stem}-{'r' if phase == 'verdict' else 's'}{number}"
        with naming_settings(name, settings):
            job = build_job(
                trial_training(self._spec, evaluation),
                entry.objective,
                {**entry.overrides, **settings},
                name=name,
                experiment=self._spec.experiment,
                seed=SeedSpec(data=seed, model=seed),
                budget=budget,
            )
        plan = self.plan(entry.label, job)
        replicate = number if phase == "verdict" else 0
        return TrialPlan(
            objective=entry.label,
            phase=phase,
            replicate=replicate,
            settings=settings,
            job=job,
            steps=plan.steps,
            flops=training_flops(plan) * plan.samples,
        )

    def _search_evaluation(self, label: str, steps: int) -> EvaluationSpec:
        """The linear probe on the primary metric's set, at every rung where trials are ended early."""
        search = self._spec.search
        assert search is not None
        every = None
        if search.scheduler != "none":
            every = math.floor(steps * search.first_rung)
            if every < 1:
                raise PlanError(
                    f"search: the first rung of objective '{label}' is {search.first_rung:g} of {steps:,} steps, less "
                    f"than one; raise 'budget', search.budget_fraction or search.first_rung"
                )
        wanted, shared = self._spec.primary_metric.split("/")[1], self._spec.run.evaluation
        sets = tuple(name for name in shared.sets if set_name(name) == wanted)
        layouts = {name: layout for name, layout in shared.layouts.items() if name in sets}
        update = {"sets": sets, "layouts": layouts, "probes": ("linear_probe",), "every_steps": every}
        return shared.model_copy(update=update)

    def _budget(self, entry: ObjectiveEntrySpec) -> BudgetSpec:
        """What the comparison's budget buys of one objective, whatever its search chooses."""

        def plan_of(job: PretrainSpec) -> Plan:
            return self.plan(entry.label, job)

        def job_of(settings: dict[str, Any]) -> PretrainSpec:
            return probe_job(self._spec, entry.model_copy(update={"overrides": settings}), PROBE_STEPS)

        budget, step_s = self._spec.budget, self._facts.seconds_per_step.get(entry.label)
        check_search_budgets(budget, entry, job_of, plan_of)
        found = resolve_budget(budget, entry.label, job_of(entry.overrides), plan_of, self._share.workers, step_s)
        return found or BudgetSpec(steps=CALIBRATION_STEPS)  # stands in until it is measured


def _rung_samples(search: Sequence[TrialPlan]) -> dict[str, int]:
    found = {}
    for trial in search:
        if trial.job.evaluation.every_steps is not None:
            found[trial.objective] = trial.batches.start(trial.job.evaluation.every_steps)
    return found


def _order_key(plan: Plan) -> tuple[Any, ...]:
    """What the order of a run's samples is a function of."""
    sources = tuple((source.shards.digest, source.shards.selection, source.weight) for source in plan.data.sources)
    batches = plan.stream.window, plan.batch.all_sizes
    return plan.seed.data, *batches, plan.data.num_samples, sources, _replacing(plan.objective)


def _replacing(objective: ObjectiveSection) -> str | None:
    """What decides which images make room for their neighbours, where those without a concept do."""
    if not isinstance(objective, CatlipSpec) or objective.no_concept != "resample":
        return None
    return objective.model_dump_json(include={"vocabulary", *ConceptsSpec.model_fields})
