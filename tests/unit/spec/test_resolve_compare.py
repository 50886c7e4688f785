"""A comparison on a cluster: which runs there are, what each of them has to itself, and what is refused."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.errors import PlanError
from orchestrator.spec.batches import Batches
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.compare_cooldowns import resolve_branches
from orchestrator.spec.compare_plan import ComparePlan
from orchestrator.spec.compare_scores import AskedFacts
from orchestrator.spec.describe_compare import describe_compare
from orchestrator.spec.facts import Facts, MachineFacts, VocabularyFacts
from orchestrator.spec.flops import text_flops, training_flops, vision_flops
from orchestrator.spec.optimizer import ScheduleSpec
from orchestrator.spec.plan import load_plan
from orchestrator.spec.plan_differences import compare_identities
from orchestrator.spec.presets import PRESETS
from orchestrator.spec.resolve_compare import CompareFacts, resolve_compare, trial_job
from orchestrator.spec.targets import TargetSpec
from orchestrator.training.schedule import learning_rate_factor

RUN: dict[str, Any] = {
    "data": {"kind": "shards", "train": "scenes/train"},
    "model": {"preset": "vit_tiny_64"},
    "batch": {"global_size": 256},
    "optimizer": {"learning_rate": 1e-3},
    "evaluation": {"sets": ["scenes/eval"]},
    "workers": 1,
}
JOB: dict[str, Any] = {
    "kind": "compare",
    "name": "which",
    "mode": "controlled",
    "run": RUN,
    "objectives": [
        {"label": "clip", "objective": {"name": "clip"}},
        {"label": "catlip", "objective": {"name": "catlip", "min_count": 2}},
    ],
    "replicates": 2,
    "budget": {"samples": 10_000},
    "primary_metric": "eval/scenes-eval/linear_probe/all/mean_accuracy",
}
SHORT_WARMUP = {"kind": "wsd", "warmup_fraction": 0.01}
GROWING = [{"until_fraction": 0.5, "image_sizes": [32], "global_sizes": [512]}]
SHAPE = TargetSpec(classes=tuple("abcdefg"), named_in_captions=True, templates=("a {}",))
COLOR = TargetSpec(classes=("red", "blue"), named_in_captions=False)
TAGS = TargetSpec(classes=("big", "small"), named_in_captions=True, multi_label=True)
ASKED = AskedFacts({"scenes-eval": {"shape": SHAPE, "color": COLOR, "tags": TAGS}})
SEARCHED = {
    "objectives": [
        {
            "label": "clip",
            "objective": {"name": "clip"},
            "search": {"optimizer.learning_rate": {"uniform": [1e-4, 1e-3]}},
        },
        {"label": "catlip", "objective": {"name": "catlip", "min_count": 2}},
    ],
    "search": {"trials": 3, "scheduler": "asha"},
}

Resolve = Callable[..., ComparePlan]


def spec_of(**change: Any) -> CompareSpec:
    return CompareSpec.model_validate({**JOB, **change})


@pytest.fixture
def resolve_comparison(facts: Facts, cluster_document: dict[str, Any]) -> Resolve:
    """``resolve_comparison(cluster={...}, seconds={...}, num_cpus=4, **change)``."""

    def resolve(
        cluster: dict[str, Any] | None = None,
        seconds: dict[str, float] | None = None,
        num_cpus: int = 4,
        asked: AskedFacts = ASKED,
        **change: Any,
    ) -> ComparePlan:
        spec = spec_of(**change)
        machine = MachineFacts(num_cores=max(1, num_cpus // 2), num_cpus=num_cpus, decoder="d")
        own = facts.model_copy(update={"machine": machine})
        known = CompareFacts({entry.label: own for entry in spec.objectives}, asked, seconds or {})
        return resolve_compare(spec, ClusterSpec.model_validate({**cluster_document, **(cluster or {})}), known)

    return resolve


def test_a_replicate_has_the_same_seeds_order_and_length_for_every_objective(resolve_comparison: Resolve) -> None:
    plan = resolve_comparison()
    runs = [trial.run for trial in plan.trials]
    assert runs == ["which--clip-r0", "which--catlip-r0", "which--clip-r1", "which--catlip-r1"]
    assert plan.same_order
    for one, other in zip(plan.trials_of("clip", "verdict"), plan.trials_of("catlip", "verdict"), strict=True):
        assert one.job.seed == other.job.seed
        assert one.steps == other.steps == 40
    assert plan.identities["clip"]["window"] == plan.identities["catlip"]["window"]
    assert "the same samples in the same order" in dict(describe_compare(plan))["order"]


def test_as_many_trials_at_once_as_leave_each_a_cpu_to_read(resolve_comparison: Resolve) -> None:
    cluster = {"workers": {"count": 8, "accelerator": "cpu"}}
    shares = {num_cpus: resolve_comparison(cluster, num_cpus=num_cpus).share for num_cpus in (2, 3, 4, 7, 64)}
    assert {num_cpus: share.at_once for num_cpus, share in shares.items()} == {2: 1, 3: 1, 4: 2, 7: 3, 64: 4}
    for num_cpus, share in shares.items():
        assert share.at_once * share.num_cpus <= num_cpus
        assert share.num_cpus >= share.workers + 1
    assert resolve_comparison(cluster, num_cpus=64, trials_at_once=3).share.at_once == 3


def test_a_search_runs_as_many_at_once_as_it_has(resolve_comparison: Resolve) -> None:
    cluster = {"workers": {"count": 16, "accelerator": "cpu"}}
    search = {"trials": 6}
    plan = resolve_comparison(cluster, num_cpus=64, **{**SEARCHED, "search": search}, replicates=1)
    assert len(plan.trials_of("clip", "search")) == plan.share.at_once == 6
    both = [{**entry, "search": SEARCHED["objectives"][0]["search"]} for entry in JOB["objectives"]]
    plan = resolve_comparison(cluster, num_cpus=64, objectives=both, search=search, replicates=1)
    assert plan.share.at_once == 12
    assert resolve_comparison(cluster, num_cpus=64, **SEARCHED, replicates=4).share.at_once == 8


def test_trials_never_hold_more_workers_than_there_are(resolve_comparison: Resolve) -> None:
    cluster = {"workers": {"count": 8, "accelerator": "cuda"}}
    plan = resolve_comparison(cluster, num_cpus=96, run={**RUN, "workers": 4})
    assert (plan.share.at_once, plan.share.workers, plan.share.num_cpus) == (2, 4, 48)
    whole = resolve_comparison(cluster, num_cpus=96, run={**RUN, "workers": None})
    assert (whole.share.at_once, whole.share.workers) == (1, 8)
    with pytest.raises(PlanError, match=r"run\.workers is 9, but cluster 'laptop' offers 8"):
        resolve_comparison(cluster, num_cpus=96, run={**RUN, "workers": 9})


def test_search_trials_share_a_seed_that_no_replicate_has(resolve_comparison: Resolve) -> None:
    plan = resolve_comparison(**SEARCHED)
    search = plan.trials_of("clip", "search")
    assert [trial.run for trial in search] == ["which--clip-s0", "which--clip-s1", "which--clip-s2"]
    assert {trial.job.seed.data for trial in search} == {2}
    assert len({trial.job.optimizer.learning_rate for trial in search}) == 3
    assert not plan.trials_of("catlip", "search")
    assert plan.search_metric == "eval/scenes-eval/linear_probe/all/validation_quality"
    assert {trial.job.evaluation.probes for trial in search} == {("linear_probe",)}
    assert plan.rung_samples == {"clip": 10 * 256}
    said = dict(describe_compare(plan))["search"]
    assert "clip: 3 trials (random) of 40 steps over optimizer.learning_rate" in said
    assert "catlip: untuned" in said


def test_a_search_judges_the_deciding_set_with_the_layout_of_no_other(resolve_comparison: Resolve) -> None:
    layouts = {"scenes/eval": {"split": "val"}, "imagenet": {"train_samples": 1000}}
    evaluation = {"sets": ["scenes/eval", "imagenet"], "layouts": layouts}
    asked = AskedFacts({**ASKED.targets, "imagenet": {"class": SHAPE}})
    plan = resolve_comparison(**SEARCHED, asked=asked, run={**RUN, "evaluation": evaluation})
    judges = plan.trials_of("clip", "search")[0].job.evaluation
    assert (judges.sets, set(judges.layouts)) == (("scenes/eval",), {"scenes/eval"})
    assert set(plan.trials_of("clip", "verdict")[0].job.evaluation.layouts) == {"scenes/eval", "imagenet"}


def test_a_search_needs_targets_on_the_set_that_decides(resolve_comparison: Resolve) -> None:
    clip, _ = SEARCHED["objectives"]
    objectives = [clip, {"label": "siglip", "objective": {"name": "siglip", "towers": "clip"}}]
    run = {**RUN, "evaluation": {"sets": ["flickr"]}}
    metric = "eval/flickr/retrieval/image_to_text/recall_at_1"
    change = {"run": run, "objectives": objectives, "search": {"trials": 3}, "primary_metric": metric}
    plan = resolve_comparison(asked=AskedFacts({"flickr": {"shape": SHAPE}}), **change)
    assert plan.search_metric == "eval/flickr/linear_probe/all/validation_quality"
    with pytest.raises(PlanError, match=r"set 'flickr' has captions and no targets .* primary_metric .* leave search"):
        resolve_comparison(asked=AskedFacts({"flickr": {}}), **change)


def test_values_that_no_job_takes_together_are_refused_with_the_trial(resolve_comparison: Resolve) -> None:
    space = {
        "objective.labels": {"choice": ["stored", "stream"]},
        "objective.no_concept": {"choice": ["keep", "drop"]},
    }
    catlip = {"label": "catlip", "objective": {"name": "catlip", "labels": "stored"}, "search": space}
    objectives = [JOB["objectives"][0], catlip]
    said = r"which--catlip-s3 would try objective.labels: stream, objective.no_concept: drop, .*labels: stored.*narrow"
    with pytest.raises(PlanError, match=said):
        resolve_comparison(objectives=objectives, search={"algorithm": "grid"}, mode="recipe")
    spec = spec_of(objectives=objectives, search={"trials": 1, "algorithm": "optuna"}, mode="recipe")
    (trial,) = resolve_comparison(**spec.model_dump(exclude_unset=True)).trials_of("catlip", "search")
    with pytest.raises(PlanError, match=r"stream, objective.no_concept: drop"):
        trial_job(spec, trial, {"objective.labels": "stream", "objective.no_concept": "drop"})


def test_what_a_search_chose_is_the_last_word(resolve_comparison: Resolve) -> None:
    spec, plan = spec_of(**SEARCHED), resolve_comparison(**SEARCHED)
    trial = plan.trials_of("clip", "verdict")[1]
    job = trial_job(spec, trial, {"optimizer.learning_rate": 5e-4})
    assert job.optimizer.learning_rate == 5e-4
    assert job == trial.job.model_copy(update={"optimizer": job.optimizer})


def test_a_budget_of_flops_buys_the_cheaper_objective_more_steps(resolve_comparison: Resolve, facts: Facts) -> None:
    plan = resolve_comparison(budget={"flops": 1e13})
    clip, catlip = (plan.trials_of(label, "verdict")[0] for label in ("clip", "catlip"))
    assert clip.steps < catlip.steps
    for trial in (clip, catlip):
        per_step = trial.flops / trial.steps
        assert 1e13 - per_step < trial.flops <= 1e13
    with pytest.raises(PlanError, match=r"less than one step of objective 'clip' \(one step takes .* FLOPs\)"):
        resolve_comparison(budget={"flops": 1e3})


CHANGED = "which changes the {} of a step: with .* the same steps would be another budget; .*objectives of their own"


@pytest.mark.parametrize(
    ("key", "choice", "budget", "said"),
    [
        ("batch.global_size", [256, 512], {"samples": 10_000}, CHANGED.format("samples")),
        ("batch.global_size", [128, 256], {"steps": 40}, CHANGED.format("samples")),
        ("model.patch_dropout", [0.0, 0.5], {"flops": 1e13}, CHANGED.format("FLOPs")),
        ("model.patch_dropout", [0.0, 0.5], {"train_seconds": 60}, CHANGED.format("FLOPs")),
        ("model.patch_dropout", [0.0, 0.5], {"samples": 10_000}, None),
        ("model.activation_checkpointing", [False, True], {"device_seconds": 60}, CHANGED.format("FLOPs")),
        ("model.activation_checkpointing", [False, True], {"flops": 1e13}, None),
        ("batch.micro_size", [64, 128], {"train_seconds": 60}, CHANGED.format("micro batches")),
        ("batch.micro_size", [64, 128], {"flops": 1e13}, None),
        ("objective.min_count", [2, 5], {"flops": 1e13}, CHANGED.format("FLOPs")),
        ("objective.min_count", [2, 5], {"samples": 10_000}, None),
        ("optimizer.learning_rate", [1e-3, 1e-4], {"train_seconds": 60}, None),
    ],
)
def test_no_setting_that_a_search_may_choose_gets_another_budget(
    resolve_comparison: Resolve, key: str, choice: list[Any], budget: dict[str, Any], said: str | None
) -> None:
    name = "catlip" if key in ("objective.min_count", "batch.micro_size") else "clip"
    searched = {"label": "one", "objective": {"name": name}, "search": {key: {"choice": choice}}}
    change = {
        "mode": "recipe",
        "objectives": [searched, JOB["objectives"][1]],
        "search": {"algorithm": "grid"},
        "budget": budget,
    }
    if said is None:
        plan = resolve_comparison(**change)
        assert len({(trial.steps, trial.samples) for trial in plan.trials_of("one", "search")}) == 1
        return
    with pytest.raises(PlanError, match=f"'one' searches {key}, {said}"):
        resolve_comparison(**change)


def test_a_budget_in_seconds_waits_for_a_calibration(resolve_comparison: Resolve) -> None:
    open_plan = resolve_comparison(budget={"train_seconds": 60})
    assert not open_plan.calibrated
    assert "measures each objective first" in dict(describe_compare(open_plan))["budget"]
    seconds = {"clip": 0.5, "catlip": 0.25}
    plan = resolve_comparison(budget={"train_seconds": 60}, seconds=seconds)
    assert plan.calibrated
    assert {label: plan.trials_of(label, "verdict")[0].steps for label in plan.labels} == {"clip": 120, "catlip": 240}
    two = {**RUN, "workers": 2}
    device = resolve_comparison(budget={"device_seconds": 60}, seconds=seconds, run=two)
    assert device.trials_of("clip", "verdict")[0].steps == 60


def test_training_flops_are_three_forward_passes(resolve: Callable[..., Any], facts: Facts) -> None:
    size = PRESETS["vit_tiny_64"]
    text = text_flops(size, 77)
    assert training_flops(resolve()) == 3 * (vision_flops(size, 64, projection=True) + text)
    finder = {"mode": "corenet", "noun_table": None, "tagger": None}
    vocabulary = VocabularyFacts.model_validate({"uri": "v", "digest": "d", "size": 100, "finder": finder})
    catlip = resolve({"objective": {"name": "catlip"}}, facts=facts.model_copy(update={"vocabulary": vocabulary}))
    assert training_flops(catlip) == 3 * (vision_flops(size, 64, projection=False) + 2 * 128 * 100)
    smaller = {"preset": "vit_tiny_64", "resolutions": [{"until_fraction": 0.5, "image_sizes": [32]}]}
    half = (vision_flops(size, 32, projection=True) + vision_flops(size, 64, projection=True)) / 2
    assert training_flops(resolve({"model": smaller, "budget": {"steps": 10}})) == pytest.approx(3 * (half + text))
    fewer = {"preset": "vit_tiny_64", "patch_dropout": 0.5}
    assert training_flops(resolve({"model": fewer})) < training_flops(resolve())


def test_what_is_computed_again_is_no_progress_and_what_is_frozen_has_no_backward_pass(
    resolve: Callable[..., Any],
) -> None:
    size = PRESETS["vit_tiny_64"]
    vision, text = vision_flops(size, 64, projection=True), text_flops(size, 77)
    again = resolve({"model": {"preset": "vit_tiny_64", "activation_checkpointing": True}})
    assert training_flops(again) == 3 * (vision + text)
    assert training_flops(again, recomputed=True) == 4 * (vision + text)
    assert (
        training_flops(resolve({"optimizer": {"learning_rate": 1e-3, "freeze": {"vision": {}}}})) == vision + 3 * text
    )


EVAL = "eval/scenes-eval"
EVERY = {**RUN, "evaluation": {"sets": ["scenes/eval"], "probes": [
    "zero_shot", "linear_probe", "nearest_neighbours", "few_shot", "fine_tune", "retrieval",
], "fine_tune": {"targets": ["shape", "tags"]}}}  # fmt: skip
TEXT = [
    {"label": "clip", "objective": {"name": "clip"}},
    {"label": "siglip", "objective": {"name": "siglip", "towers": "clip"}},
]
ALL = (
    r"All objectives have: eval/scenes-eval/linear_probe/shape/\{accuracy, top5_accuracy\}; "
    r"eval/scenes-eval/linear_probe/color/accuracy; eval/scenes-eval/linear_probe/tags/mean_average_precision; "
    r"eval/scenes-eval/linear_probe/\{named, all, unnamed\}/mean_accuracy; eval/scenes-eval/nearest_neighbours/"
)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (f"{EVAL}/zero_shot/shape/accuracy", f"objective 'catlip' has no such score; did you mean .*{ALL}"),
        (f"{EVAL}/zero_shot.synset_rows/shape/accuracy", "objective 'clip' has no such score"),
        (f"{EVAL}/linear_probe.embedding/shape/accuracy", "'catlip' .*did you mean .*/linear_probe/shape/accuracy"),
        (f"{EVAL}/few_shot/all/mean_accuracy_1_shot", "objective 'clip' has no such score"),
        ("heldout/loss", "a loss is on a scale of the objective's own.*one of: eval/scenes-eval/linear_probe/"),
        ("eval/other/linear_probe/shape/accuracy", "no evaluation set 'other'; there are: scenes-eval"),
        (f"{EVAL}/linear_probe/shap/accuracy", r"did you mean eval/scenes-eval/linear_probe/shape/accuracy\?"),
        (f"{EVAL}/linear_probe/shape/recall", "no such score"),
        (f"{EVAL}/linear_probe/all/accuracy", r"did you mean eval/scenes-eval/linear_probe/all/mean_accuracy\?"),
    ],
)  # fmt: skip
def test_a_metric_that_an_objective_lacks_is_refused_with_those_that_all_have(
    resolve_comparison: Resolve, metric: str, said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        resolve_comparison(primary_metric=metric)


def test_a_vocabulary_that_is_counted_later_may_divide_any_target(resolve_comparison: Resolve) -> None:
    metric = f"{EVAL}/linear_probe/color/accuracy_in_vocabulary"
    assert resolve_comparison(primary_metric=metric, asked=replace(ASKED, divided=None)).primary_metric == metric


@pytest.mark.parametrize(
    ("metric", "is_there"),
    [
        ("linear_probe/shape/top5_accuracy", True),
        ("linear_probe/color/top5_accuracy", False),  # of two classes
        ("linear_probe/tags/mean_average_precision", True),
        ("linear_probe/shape/mean_average_precision", False),  # one label a row
        ("few_shot/shape/accuracy_4_shot", True),
        ("few_shot/shape/accuracy_999_shot", False),
        ("few_shot/all/mean_accuracy_4_shot", True),
        ("few_shot/tags/accuracy_4_shot", False),
        ("fine_tune/shape/accuracy_100_percent", True),
        ("fine_tune/shape/accuracy_50_percent", False),
        ("fine_tune/color/accuracy_100_percent", False),  # not tuned on
        ("fine_tune/tags/mean_average_precision_1_percent", True),
        ("fine_tune/named/mean_accuracy_10_percent", True),
        ("fine_tune/unnamed/mean_accuracy_10_percent", False),
        ("retrieval/image_to_text/recall_at_5", True),
        ("retrieval/image_to_text/recall_at_7", False),
        ("retrieval/text_to_image/mean_recall_at_1", False),
        ("zero_shot/color/accuracy", False),  # without templates
        ("zero_shot/named/mean_accuracy", True),
        ("zero_shot/unnamed/mean_accuracy", False),
        ("linear_probe/all/mean_top5_accuracy", False),
        ("linear_probe/shape/accuracy_in_vocabulary", True),
        ("linear_probe/color/accuracy_in_vocabulary", False),
        ("linear_probe/all/mean_accuracy_outside_vocabulary", True),
        ("linear_probe/unnamed/mean_accuracy_outside_vocabulary", False),
    ],
)
def test_what_the_targets_and_settings_give_is_a_metric_and_nothing_else(
    resolve_comparison: Resolve, metric: str, is_there: bool
) -> None:
    divided = replace(ASKED, divided={"scenes-eval": ("shape",)})
    change = {"run": EVERY, "objectives": TEXT, "asked": divided, "primary_metric": f"{EVAL}/{metric}"}
    if is_there:
        assert resolve_comparison(**change).primary_metric == f"{EVAL}/{metric}"
        return
    with pytest.raises(PlanError, match=f"{metric}: objective 'clip' has no such score"):
        resolve_comparison(**change)


def test_fine_tuning_judges_objectives_without_text_too(resolve_comparison: Resolve) -> None:
    metric = f"{EVAL}/fine_tune/shape/accuracy_1_percent"
    assert resolve_comparison(run=EVERY, primary_metric=metric).primary_metric == metric


def test_classes_that_a_vocabulary_cannot_name_have_no_zero_shot_score(resolve_comparison: Resolve) -> None:
    catlips = [{"label": label, "objective": {"name": "catlip", "min_count": 2}} for label in ("one", "other")]
    metric = f"{EVAL}/zero_shot.synset_rows/color/accuracy"
    assert resolve_comparison(objectives=catlips, primary_metric=metric).primary_metric == metric
    unnamed = replace(ASKED, unnamed={"other": {"scenes-eval": ("color",)}})
    with pytest.raises(PlanError, match="objective 'other' has no such score"):
        resolve_comparison(objectives=catlips, primary_metric=metric, asked=unnamed)


def test_objectives_with_text_towers_may_be_compared_by_ranks(resolve_comparison: Resolve) -> None:
    metric = "eval/scenes-eval/retrieval/image_to_text/mean_rank"
    plan = resolve_comparison(objectives=TEXT, primary_metric=metric)
    assert not plan.higher_is_better


def test_a_budget_that_is_too_small_for_one_rung_is_refused(resolve_comparison: Resolve) -> None:
    with pytest.raises(PlanError, match=r"first rung of objective 'clip' is 0.25 of 3 steps, less than one"):
        resolve_comparison(**{**SEARCHED, "budget": {"steps": 3}})


def test_each_rung_has_a_cooldown_that_is_the_replicate_with_a_smaller_budget(resolve_comparison: Resolve) -> None:
    change = {"rungs": [0.25, 0.5], "budget": {"steps": 400}, "run": {**RUN, "checkpoint": {"keep_steps": [7]}}}
    plan, spec = resolve_comparison(**change), spec_of(**change)
    assert [trial.run for trial in plan.trials if trial.phase == "cooldown"][:3] == [
        "which--clip-r0-cooldown-100",
        "which--clip-r0-cooldown-200",
        "which--catlip-r0-cooldown-100",
    ]
    trunk, first = plan.trials_of("clip", "verdict")[1], plan.trials_of("clip", "cooldown")[2]
    assert (first.replicate, first.first_step, first.steps, first.samples) == (1, 80, 100, 20 * 256)
    assert first.flops / first.own_steps == pytest.approx(trunk.flops / trunk.steps)
    assert trunk.job.checkpoint.keep_steps == (7, 80, 160)
    job = trial_job(spec, first, {})
    assert job == first.job
    assert job.start is not None
    assert (job.start.run, job.checkpoint.keep_steps, job.schedule) == (trunk.run, (), trunk.job.schedule)
    assert trial_job(spec, trunk, {}) == trunk.job
    said = dict(describe_compare(plan))
    assert "clip: steps 80 to 100, 160 to 200; 15.0% beside the budget" in said["rungs"]
    assert f"8 cooldowns: {4 * 60 * 256:,} samples" in said["trials"]
    assert said["rungs"] != dict(describe_compare(resolve_comparison()))["rungs"]


def test_the_rate_is_constant_where_a_cooldown_leaves_and_falls_from_there_on() -> None:
    schedule = ScheduleSpec(kind="wsd", warmup_fraction=0.05, decay_fraction=0.15)
    batches = Batches(global_size=8)

    def factor(step: int, steps: int) -> float:
        return learning_rate_factor(schedule, batches.progress(step, steps))

    for steps in (40, 97, 400, 12_345):
        for start, end in resolve_branches("clip", schedule, steps, (0.25, 0.5, 0.75)):
            assert factor(start - 1, steps) == factor(start, steps) == factor(start - 1, end) == 1
            assert factor(min(start + 1, end - 1), end) < 1
            assert end - start <= math.ceil(0.15 * end)


def test_where_the_search_ends_trials_early_the_curve_has_cooldowns_at_its_rungs(resolve_comparison: Resolve) -> None:
    plan = resolve_comparison(**SEARCHED)
    assert plan.rungs == (0.25, 0.5)
    assert {trial.job.schedule.kind for trial in plan.trials} == {"wsd"}
    assert len(plan.trials_of("catlip", "cooldown")) == 2 * 2
    for change in ({"rungs": []}, {"run": {**RUN, "schedule": {"kind": "cosine"}}}):
        without = resolve_comparison(**SEARCHED, **change)
        assert not without.rungs
        assert {trial.phase for trial in without.trials} == {"search", "verdict"}
        assert {trial.job.schedule.kind for trial in without.trials} == {"cosine"}
        assert "in mid-schedule" in dict(describe_compare(without))["rungs"]
        assert without.digest != plan.digest
    grown = resolve_comparison(**{**SEARCHED, "search": {**SEARCHED["search"], "first_rung": 0.1}})
    assert grown.rungs == pytest.approx((0.1, 0.2, 0.4, 0.8))
    partly = resolve_comparison(**SEARCHED, run={**RUN, "schedule": {"warmup_fraction": 0.1}})
    assert {(one.job.schedule.kind, one.job.schedule.warmup_fraction) for one in partly.trials} == {("wsd", 0.1)}


def test_cooldowns_of_a_budget_in_seconds_wait_for_a_calibration(resolve_comparison: Resolve) -> None:
    change = {"budget": {"train_seconds": 60}, "rungs": [0.02]}
    assert not [trial for trial in resolve_comparison(**change).trials if trial.phase == "cooldown"]
    plan = resolve_comparison(**change, seconds={"clip": 0.1, "catlip": 0.05}, run={**RUN, "schedule": SHORT_WARMUP})
    assert [trial.steps for trial in plan.trials_of("clip", "cooldown")] == [12, 12]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rungs": [0.05]}, r"ends at 0\.05 of 40 steps would begin after 1, but the rate is constant from step 2 on"),
        ({"rungs": [0.5, 0.501]}, r"end after \[20, 20, 40\] steps; wanted each after others"),
        (
            {"rungs": [0.5], "run": {**RUN, "model": {"preset": "vit_tiny_64", "resolutions": GROWING}}},
            r"batches of objective 'clip' change with the image size .*set rungs: \[\] for none",
        ),
        ({"rungs": [0.99]}, r"end after \[40, 40\] steps"),
        ({"rungs": [0.5], "name": "w" * 45}, r"a run would be called w+--clip-r0-cooldown-20, which is too long"),
    ],
)
def test_rungs_that_no_cooldown_can_end_at_are_refused(
    resolve_comparison: Resolve, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        resolve_comparison(**change)


def test_recipes_may_differ_in_batch_and_say_that_the_order_does(resolve_comparison: Resolve) -> None:
    objectives = [
        {"label": "small", "objective": {"name": "clip"}, "overrides": {"batch.global_size": 192}},
        {"label": "large", "objective": {"name": "clip"}, "overrides": {"batch.global_size": 512}},
    ]
    plan = resolve_comparison(mode="recipe", objectives=objectives)
    assert not plan.same_order
    assert [plan.trials_of(label, "verdict")[0].steps for label in plan.labels] == [53, 20]
    assert "not the same samples in the same order" in dict(describe_compare(plan))["order"]


def test_images_that_only_one_objective_replaces_are_no_same_order(resolve_comparison: Resolve) -> None:
    def same_order(*objectives: dict[str, Any]) -> bool:
        entries = [{"label": f"o{number}", "objective": one} for number, one in enumerate(objectives)]
        return resolve_comparison(mode="recipe", objectives=entries).same_order

    clip, keeps = {"name": "clip"}, {"name": "catlip", "min_count": 2}
    replaces = {**keeps, "no_concept": "resample"}
    assert same_order(clip, keeps)
    assert not same_order(clip, replaces)
    assert not same_order(replaces, {**replaces, "min_count": 3}), "other concepts, other images without one"
    assert same_order(replaces, {**replaces, "bias_at_log_prior": True})


def test_a_budget_buys_samples_where_those_of_a_step_differ(resolve_comparison: Resolve, facts: Facts) -> None:
    phases = [{"until_fraction": 0.5, "image_sizes": [64, 64], "global_sizes": [512, 256]}]
    model = {"preset": "vit_tiny_64", "resolutions": phases}
    run = {**JOB["run"], "model": model}
    plan = resolve_comparison(**{**SEARCHED, "run": run, "budget": {"samples": 40_000}, "replicates": 3})
    verdict = plan.trials_of("clip", "verdict")
    assert len({tuple(trial.batches.size_at(step) for step in range(20)) for trial in verdict}) == 3
    assert all(40_000 <= trial.samples < 40_256 + 512 for trial in verdict)
    search = plan.trials_of("clip", "search")[0]
    assert plan.rung_samples["clip"] == search.batches.start(search.job.evaluation.every_steps)
    equal = resolve_comparison(budget={"samples": 40_000}).trials_of("clip", "verdict")[0]
    by_flops = resolve_comparison(run=run, budget={"flops": equal.flops}).trials_of("clip", "verdict")[0]
    assert by_flops.flops == pytest.approx(equal.flops, rel=0.02)
    with pytest.raises(PlanError, match="seconds become steps by the time of one, but those of objective 'clip'"):
        resolve_comparison(run=run, budget={"train_seconds": 60})


def test_names_that_become_too_long_are_refused(resolve_comparison: Resolve) -> None:
    with pytest.raises(PlanError, match="shorten 'name' or the label"):
        resolve_comparison(name="w" * 60)


def test_what_must_stay_the_same_is_named_by_objective(resolve_comparison: Resolve) -> None:
    one, other = resolve_comparison(), resolve_comparison(budget={"samples": 20_000})
    assert one.digest == resolve_comparison(num_cpus=16).digest, "another machine goes on"
    differences = {key for key in one.identity if one.identity[key] != other.identity[key]}
    assert differences == {"clip: steps", "catlip: steps"}


def test_seeds_in_another_order_are_other_replicates(resolve_comparison: Resolve) -> None:
    one, other = (resolve_comparison(replicates=seeds) for seeds in ([5, 6, 7], [5, 7, 6]))
    said = ["replicates: [5, 6, 7] -> [5, 7, 6]"]
    assert compare_identities(other.identity, one.identity) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_samples": 100}, "run.evaluation.max_samples: None -> 100"),
        ({"caption_fields": ["cap"]}, "run.evaluation.caption_fields: ['txt'] -> ['cap']"),
        ({"probes": ["linear_probe"]}, "run.evaluation.probes: ["),
        ({"nearest_neighbours": {"k": 5}}, "run.evaluation.nearest_neighbours: {"),
        ({"layouts": {"scenes/eval": {"class_names": "names.txt"}}}, "run.evaluation.layouts: {} -> {'scenes/eval': {"),
    ],
)
def test_other_judges_are_another_comparison(resolve_comparison: Resolve, change: dict[str, Any], said: str) -> None:
    judged_otherwise = resolve_comparison(run={**RUN, "evaluation": {**RUN["evaluation"], **change}})
    (line,) = compare_identities(judged_otherwise.identity, resolve_comparison().identity)
    assert line.startswith(said)


def test_a_set_with_other_rows_is_another_judge(resolve_comparison: Resolve) -> None:
    one, other = (resolve_comparison(asked=replace(ASKED, digests={"scenes-eval": it})) for it in ("a", "b"))
    assert compare_identities(other.identity, one.identity) == ["evaluation set scenes-eval: 'a' -> 'b'"]


def test_when_replicates_are_judged_on_their_way_may_change(resolve_comparison: Resolve) -> None:
    often = resolve_comparison(run={**RUN, "evaluation": {**RUN["evaluation"], "every_steps": 10}})
    assert often.digest == resolve_comparison().digest


def test_the_plan_of_a_comparison_is_called_one_where_a_run_is_asked_for(resolve_comparison: Resolve) -> None:
    with pytest.raises(PlanError, match=r"here/plan.json is the plan of a comparison; take one of its runs"):
        load_plan(resolve_comparison().model_dump_json(), "here/plan.json")
