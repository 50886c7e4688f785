"""A ComparePlan as text for people, as ``describe.py`` does with a Plan."""

from collections.abc import Iterator

from orchestrator.spec.compare_plan import ComparePlan


def describe_compare(plan: ComparePlan) -> list[tuple[str, str]]:
    """Headings and their text, in the order to read them."""
    return [
        ("comparison", f"{plan.name}: {', '.join(plan.labels)}; {plan.mode}, plan {plan.digest}"),
        ("decided by", "\n".join(_describe_metric(plan))),
        ("budget", "\n".join(_describe_budget(plan))),
        ("order", _describe_order(plan)),
        ("search", "\n".join(_describe_search(plan))),
        ("rungs", "\n".join(_describe_rungs(plan))),
        ("trials", "\n".join(_describe_trials(plan))),
        ("side by side", _describe_share(plan)),
        ("places", f"folder: {plan.run_uri}\nMLflow: {plan.tracking.uri}, experiment {plan.tracking.experiment}"),
    ]


def _describe_metric(plan: ComparePlan) -> Iterator[str]:
    better = "higher" if plan.higher_is_better else "lower"
    weights = "averaged" if plan.weights == "ema" else "trained"
    yield f"{plan.primary_metric} of the {weights} weights; {better} is better"
    number = len(plan.trials_of(plan.labels[0], "verdict"))
    if number < 3:
        yield f"{number} replicates show a spread at most; a verdict needs three"


def _describe_budget(plan: ComparePlan) -> Iterator[str]:
    yield f"{plan.budget} for each objective"
    if not plan.calibrated:
        yield "a run measures each objective first: how many steps that is follows from it, and stays so"
        return
    for label in plan.labels:
        trial = plan.trials_of(label, "verdict")[0]
        measured = f"; {plan.seconds_per_step[label]:.3g} s a step, measured" if label in plan.seconds_per_step else ""
        yield f"{label}: {trial.steps:,} steps, {trial.samples:,} samples, {trial.flops:.3g} FLOPs{measured}"


def _describe_order(plan: ComparePlan) -> str:
    if plan.same_order:
        return "replicate i shows every objective the same samples in the same order"
    return (
        "objectives differ in batch, window or the samples that they train on: replicate i has the same seeds, but not "
        "the same samples in the same order"
    )


def _describe_search(plan: ComparePlan) -> Iterator[str]:
    search = plan.search
    if search is None:
        yield "none: all objectives run untuned"
        return
    for label in plan.labels:
        trials = plan.trials_of(label, "search")
        if not trials:
            yield f"{label}: untuned"
            continue
        keys = ", ".join(plan.spaces[label])
        yield f"{label}: {len(trials)} trials ({search.algorithm}) of {trials[0].steps:,} steps over {keys}"
    yield f"chosen by {plan.search_metric}, on validation rows"
    if search.scheduler != "none":
        yield f"{search.scheduler} ends trials early, within one objective, from {search.first_rung:.0%} of a budget"


def _describe_rungs(plan: ComparePlan) -> Iterator[str]:
    if not plan.rungs:
        yield "none: points of a curve before its end are in mid-schedule"
        return
    rungs = ", ".join(f"{rung:.3g}" for rung in plan.rungs)
    yield f"{rungs} of the budget: each replicate has a cooldown that ends there, branched off it once it has ended"
    for label in plan.labels:
        trials = [trial for trial in plan.trials_of(label, "cooldown") if trial.replicate == 0]
        if trials:
            steps = ", ".join(f"{trial.first_step:,} to {trial.steps:,}" for trial in trials)
            budget = plan.trials_of(label, "verdict")[0].samples
            extra = sum(trial.samples for trial in trials) / budget
            yield f"{label}: steps {steps}; {extra:.1%} beside the budget"


def _describe_trials(plan: ComparePlan) -> Iterator[str]:
    for phase, what in (("search", "search"), ("verdict", "that count"), ("cooldown", "cooldowns")):
        trials = [trial for trial in plan.trials if trial.phase == phase]
        if trials:
            samples = sum(trial.samples for trial in trials)
            yield f"{len(trials)} {what}: {samples:,} samples, {sum(trial.flops for trial in trials):.3g} FLOPs in all"


def _describe_share(plan: ComparePlan) -> str:
    share = plan.share
    workers = "1 worker" if share.workers == 1 else f"{share.workers} workers"
    return (
        f"{share.at_once} at once, each with {workers} and {share.num_cpus} logical CPUs, "
        f"those that read for it included; none starts before another has given its share back"
    )
