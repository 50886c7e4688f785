"""At which size a step's images are read."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from pydantic import ValidationError

from orchestrator.columns import AnnotationKind
from orchestrator.errors import PlanError
from orchestrator.spec.annotation import AnnotationColumnFacts, AnnotationPlan
from orchestrator.spec.job import ModelSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolution import ImageSizes, SizePhase
from orchestrator.spec.resolve_model import check_dense_annotations

Resolve = Callable[..., Plan]


def model_with(*phases: dict[str, object], **options: object) -> dict[str, object]:
    return {"model": {"preset": "vit_tiny_64", "resolutions": phases, **options}}


def test_phases_end_at_their_share_of_the_steps(resolve: Resolve) -> None:
    phases = ({"until_fraction": 0.25, "image_sizes": [32]}, {"until_fraction": 0.5, "image_sizes": [48]})
    plan = resolve({**model_with(*phases), "budget": {"steps": 101}})
    sizes = [plan.model.image_sizes.at(step) for step in range(101)]
    assert (sizes.count(32), sizes.count(48), sizes.count(64)) == (26, 25, 50)
    assert sizes == sorted(sizes)


def test_of_several_sizes_each_step_draws_one_by_the_seed_alone() -> None:
    sizes = ImageSizes(final=64, phases=(SizePhase(stop_step=1000, image_sizes=(32, 48, 64, 80)),), seed=1)
    drawn = [sizes.at(step) for step in range(1000)]
    assert drawn == [sizes.model_copy().at(step) for step in range(1000)]
    assert all(200 < count < 300 for count in Counter(drawn).values())
    assert drawn != [sizes.model_copy(update={"seed": 2}).at(step) for step in range(1000)]
    assert sizes.at(1000) == 64
    assert sizes.all == (32, 48, 64, 80)


def test_blocks_are_as_large_as_the_largest_size_makes_them(resolve: Resolve) -> None:
    plain = resolve()
    small = resolve(model_with({"until_fraction": 0.5, "image_sizes": [32]}))
    large = resolve(model_with({"until_fraction": 0.5, "image_sizes": [96]}))
    assert small.stream.block_bytes == plain.stream.block_bytes < large.stream.block_bytes


def test_another_course_of_sizes_is_another_plan(resolve: Resolve) -> None:
    other = resolve(model_with({"until_fraction": 0.5, "image_sizes": [32]}))
    assert other.identity["model.resolutions"] != resolve().identity["model.resolutions"]


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (model_with({"until_fraction": 0.5, "image_sizes": [32, 44]}), "44 does not divide into the 8 pixel patches"),
        ({**model_with(compile=True), "zero_stage": 3}, "model.compile does not go together with zero_stage 3"),
        (
            {"optimizer": {"learning_rate": 1, "freeze": {"text": {"layers": 3}}}},
            "optimizer.freeze.text.layers is 3, but that tower of vit_tiny_64 has 2 layers",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused(resolve: Resolve, job: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        resolve(job)


@pytest.mark.parametrize(("kind", "is_refused"), [("mask", True), ("number", False)])
def test_dense_annotations_keep_images_at_one_size(resolve: Resolve, kind: AnnotationKind, is_refused: bool) -> None:
    columns = {"value": AnnotationColumnFacts(kind=kind)}
    annotation = AnnotationPlan(name="shapes", folder="shapes", columns=columns, missing="keep", digests=("d",))
    check_dense_annotations(resolve().model, [annotation])
    model = resolve(model_with({"until_fraction": 0.5, "image_sizes": [32]})).model
    expected = pytest.raises(PlanError, match="dense annotation shapes") if is_refused else nullcontext()
    with expected:
        check_dense_annotations(model, [annotation])


def test_phases_must_rise() -> None:
    phase = {"until_fraction": 0.5, "image_sizes": [32]}
    with pytest.raises(ValidationError, match="wanted rising shares"):
        ModelSpec(preset="vit_tiny_64", resolutions=(phase, phase))
