"""How many samples a step takes, and from where on: sums that hold for all steps, and what a job may ask of them."""

import pickle
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.errors import PlanError
from orchestrator.spec.batches import Batches, BatchPhase
from orchestrator.spec.capacity import estimate_capacity
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.describe import describe_plan
from orchestrator.spec.flops import training_flops
from orchestrator.spec.job import ModelSpec
from orchestrator.spec.memory import device_memory
from orchestrator.spec.plan import Plan, load_plan

Resolve = Callable[..., Plan]

CHANGING = Batches(
    global_size=16,
    phases=(
        BatchPhase(stop_sample=300, global_sizes=(64,)),
        BatchPhase(stop_sample=1500, global_sizes=(32, 48, 96)),
        BatchPhase(stop_sample=1600, global_sizes=(16,)),
    ),
    seed=5,
)


def changing(*phases: tuple[float, list[int], list[int]], **job: Any) -> dict[str, Any]:
    """A job with phases of (until_fraction, image_sizes, global_sizes)."""
    keys = ("until_fraction", "image_sizes", "global_sizes")
    resolutions = [dict(zip(keys, phase, strict=True)) for phase in phases]
    return {"model": {"preset": "vit_tiny_64", "resolutions": resolutions}, **job}


def test_equal_steps_are_products_to_the_bit() -> None:
    equal = Batches(global_size=24)
    for step in (0, 1, 7, 10**6):
        assert (equal.start(step), equal.size_at(step)) == (24 * step, 24)
        assert [equal.step_at(24 * step + within) for within in (0, 23)] == [step, step]
    assert [equal.steps_to(position) for position in (0, 1, 24, 25)] == [0, 1, 1, 2]
    for num_steps in (1, 3, 391):
        assert [equal.progress(step, num_steps) for step in range(num_steps)] == [
            (step + 0.5) / num_steps for step in range(num_steps)
        ]


def test_a_step_begins_where_the_sizes_before_it_add_up_to() -> None:
    sizes = [CHANGING.size_at(step) for step in range(80)]
    assert sizes[:5] == [64] * 5, "the phase ends with the step that reaches its end"
    drawn = sizes[5 : CHANGING.steps_to(1500)]
    assert set(drawn) == {32, 48, 96}
    assert set(sizes[5 + len(drawn) :]) == {16}
    starts = [0, *accumulate(sizes)]
    assert [CHANGING.start(step) for step in range(81)] == starts
    for position in range(starts[-1]):
        assert CHANGING.step_at(position) == bisect_right(starts, position) - 1
        step = CHANGING.steps_to(position)
        assert starts[step] >= position > (starts[step - 1] if step else -1)
    assert CHANGING.mean_size(4, 40) == sum(sizes[4:40]) / 36
    assert CHANGING.mean_size(40, 40) == 0
    assert CHANGING.all_sizes == (16, 32, 48, 64, 96)


def test_what_a_step_draws_is_known_to_whoever_has_the_plan() -> None:
    sizes = [CHANGING.size_at(step) for step in range(60)]
    again = pickle.loads(pickle.dumps(CHANGING))
    assert len(pickle.dumps(CHANGING)) < 1000, "sums do not travel"
    assert [again.size_at(step) for step in reversed(range(60))] == sizes[::-1]
    assert [CHANGING.model_copy(update={"seed": 6}).size_at(step) for step in range(60)] != sizes


def test_the_share_of_the_budget_is_one_of_samples() -> None:
    num_steps = CHANGING.steps_to(3000)
    shares = [CHANGING.progress(step, num_steps) for step in range(num_steps)]
    total = CHANGING.start(num_steps)
    assert shares == sorted(shares)
    assert 0 < shares[0] == 32 / total
    assert shares[-1] == 1 - 8 / total
    assert CHANGING.steps_of(0.5, num_steps) == CHANGING.step_at(total // 2) < num_steps / 2


def test_a_million_steps_add_up() -> None:
    many = Batches(global_size=8, phases=(BatchPhase(stop_sample=24 * 10**6, global_sizes=(16, 32)),))
    step = many.steps_to(24 * 10**6)
    assert step == pytest.approx(10**6, rel=0.01)
    assert many.start(step + 3) - many.start(step) == 24
    assert all(many.step_at(many.start(at)) == at for at in range(0, step, 9973))


def test_image_size_and_batch_are_drawn_together_and_phases_are_shares_of_the_samples(resolve: Resolve) -> None:
    plan = resolve(changing((0.25, [32], [512]), (0.75, [32, 48, 64], [512, 384, 256])))
    of_pixels = {32: {512}, 48: {384}, 64: {256}}
    for step in range(plan.steps):
        pixels, size = plan.model.image_sizes.at(step), plan.batch.size_at(step)
        assert {size} == of_pixels[pixels]
    first, second, last = plan.phases
    assert [first.samples, first.samples + second.samples] == pytest.approx([25_000, 75_000], abs=512)
    assert (first.stop - first.start, last.sizes) == (49, ((64, 256),))
    assert 100_000 <= plan.samples == plan.batch.start(plan.steps) < 100_256
    assert load_plan(plan.model_dump_json(), "plan.json") == plan


@pytest.mark.parametrize("until", [0.5, 1.0])
@pytest.mark.parametrize("budget", [{"samples": 60_000}, {"epochs": 15.0}, {"steps": 180}])
def test_every_form_of_budget_counts_samples(resolve: Resolve, budget: dict[str, Any], until: float) -> None:
    plan = resolve(changing((until, [32, 48], [512, 256]), budget=budget))
    assert plan.steps == budget.get("steps", plan.batch.steps_to(60_000))
    assert plan.phases[0].samples / plan.samples == pytest.approx(until, abs=0.03)
    assert len(plan.phases) == (2 if until < 1 else 1), "a phase to the end of the run leaves nothing behind it"
    assert plan.batch.size_at(plan.steps - 1) in ((256,) if until < 1 else (256, 512))


def test_micro_batches_are_alike_in_all_steps(resolve: Resolve) -> None:
    plan = resolve(changing((0.5, [32, 48], [768, 384])))
    assert (plan.batch.micro_size, plan.batch.num_micro, plan.batch.most_micro) == (64, 2, 6)
    assert plan.workers.admissible[-1] == 128
    assert plan.stream.window == 2048
    given = resolve(changing((0.5, [32], [512]), batch={"global_size": 256, "micro_size": 32}))
    assert (given.batch.micro_size, given.batch.num_micro, given.batch.most_micro) == (32, 4, 8)
    assert resolve().stream.block_bytes == 2 * plan.stream.block_bytes


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (
            changing((0.5, [32], [511])),
            r"resolutions\.0\.global_sizes 511 does not divide by 2 workers; use 510 or 512, or workers: 1",
        ),
        (
            changing((0.5, [32, 48], [512, 300]), batch={"global_size": 256, "micro_size": 64}),
            r"resolutions\.0\.global_sizes 300 is not made of micro batches of 64 on 2 workers; use 256 or 384",
        ),
        (changing((0.5, [32], [4002])), r"resolutions\.0\.global_sizes is 4,002, but .* holds 4,000 samples"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_what_does(resolve: Resolve, job: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        resolve(job)


def test_there_is_one_global_size_for_each_image_size() -> None:
    phase = {"until_fraction": 0.5, "image_sizes": [32, 48], "global_sizes": [64]}
    with pytest.raises(ValidationError, match="global_sizes has 1 for 2 image_sizes; wanted one for each, or none"):
        ModelSpec(preset="vit_tiny_64", resolutions=(phase,))


def test_sizes_belong_to_the_identity_of_those_runs_alone_that_have_them(resolve: Resolve) -> None:
    equal = resolve(changing((0.5, [32], [])))
    key = "model.resolutions: global_sizes"
    assert key not in equal.identity
    other, more = (resolve(changing((0.5, [32], [size]))) for size in (512, 1024))
    assert other.identity[key] != more.identity[key]


def test_memory_is_that_of_the_largest_batch_and_work_that_of_all(
    resolve: Resolve, cluster_document: dict[str, Any]
) -> None:
    small, large = (resolve({"batch": {"global_size": size, "micro_size": 64}}) for size in (256, 1024))
    both = resolve(changing((0.5, [64], [1024]), batch={"global_size": 256, "micro_size": 64}))
    assert device_memory(both) == device_memory(large) != device_memory(small)
    assert training_flops(both) == pytest.approx(training_flops(small))
    halved = resolve(changing((0.5, [32], [1024])))
    mean = (training_flops(resolve({"model": {"preset": "vit_tiny_64", "image_size": 32}})) + training_flops(small)) / 2
    assert training_flops(halved) == pytest.approx(mean, rel=0.01), "half of the samples, not of the steps"
    once = resolve(changing((0.5, [64], [512]), batch={"global_size": 256, "micro_size": 128}))
    again = [training_flops(plan, recomputed=True) / training_flops(plan) for plan in (once, both)]
    assert again == pytest.approx([1 + 1 / 6, 1 + 1 / 3], rel=0.01), "towers run again where there are several parts"
    estimate_capacity(both, ClusterSpec.model_validate(cluster_document))


def test_the_batches_of_each_phase_are_said(resolve: Resolve) -> None:
    said = dict(describe_plan(resolve(changing((0.5, [32, 48], [512, 256]), budget={"samples": 50_000}))))
    head, first, last, twice = said["batch"].splitlines()
    assert head.startswith("2 workers x 1 to 2 micro batches x 128 = 256 to 512 samples a step; ")
    assert first.endswith("512 of 32 pixels, 256 of 48 pixels; 25,088 samples")
    assert last.endswith("256 of 64 pixels; 25,088 samples")
    assert twice.startswith("towers run forward twice in steps of several")
