"""What an objective reads beside images and captions is there, of the right kind, and part of what a run is."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.errors import PlanError
from orchestrator.spec.annotation import AnnotationColumnFacts, AnnotationFacts, AnnotationNeed
from orchestrator.spec.describe import describe_plan
from orchestrator.spec.facts import Facts
from orchestrator.spec.objective import ClipSpec
from orchestrator.spec.plan import Plan, load_plan

Resolve = Callable[..., Plan]

COLUMNS = {
    "depth": AnnotationColumnFacts(kind="depth"),
    "vector": AnnotationColumnFacts(kind="embedding", width=7),
    "other": AnnotationColumnFacts(kind="mask"),
}
FOUND = AnnotationFacts(digest="d1", columns=COLUMNS, num_shards=9)
SHARDS = {"kind": "shards", "train": "scenes/train"}


@pytest.fixture(autouse=True)
def reads_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    need = AnnotationNeed(name="expert", columns={"depth": "depth", "vector": "embedding"}, missing="keep")
    monkeypatch.setattr(ClipSpec, "annotations", property(lambda self: (need,)))


def with_annotation(facts: Facts, *found: AnnotationFacts) -> Facts:
    """As many sources as annotations."""
    train = tuple(facts.train[0].model_copy(update={"annotations": {"expert": one}}) for one in found)
    return facts.model_copy(update={"train": train})


def test_a_plan_names_what_is_read_and_survives_its_way(resolve: Resolve, facts: Facts) -> None:
    plan = resolve({"data": {**SHARDS, "annotations": {"expert": "dpt-large"}}}, facts=with_annotation(facts, FOUND))
    (annotation,) = plan.data.annotations
    assert (annotation.name, annotation.folder, annotation.digests, annotation.missing) == (
        *("expert", "dpt-large", ("d1",), "keep"),
    )
    assert set(annotation.columns) == {"depth", "vector"}
    assert load_plan(plan.model_dump_json(), "here") == plan
    assert (
        "annotation expert (depth, vector) of 9 of 16 shards; a sample without it: keep"
        in dict(describe_plan(plan))["data"]
    )


def test_the_bytes_of_a_block_count_what_is_joined(
    resolve: Resolve, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = resolve(facts=with_annotation(facts, FOUND))
    monkeypatch.setattr(ClipSpec, "annotations", property(lambda self: ()))
    row_bytes = (plan.stream.block_bytes - resolve().stream.block_bytes) / plan.batch.micro_size
    assert row_bytes == 2 * plan.model.image_size**2 + 7 * 4 + 1


def test_another_maker_makes_another_run_and_another_folder_does_not(resolve: Resolve, facts: Facts) -> None:
    found = with_annotation(facts, FOUND)
    other = with_annotation(facts, FOUND.model_copy(update={"digest": "d2"}))
    moved = {"data": {**SHARDS, "annotations": {"expert": "elsewhere"}}}
    assert resolve(facts=found).identity == resolve(moved, facts=found).identity
    assert resolve(facts=found).identity != resolve(facts=other).identity


def column(kind: Any, width: int = 1) -> AnnotationFacts:
    """Whose vector is of that form."""
    return FOUND.model_copy(update={"columns": COLUMNS | {"vector": AnnotationColumnFacts(kind=kind, width=width)}})


def test_an_annotation_that_is_absent_is_named(resolve: Resolve) -> None:
    with pytest.raises(PlanError, match=r"reads annotation 'expert', but file:///data/scenes/train has none in _orch"):
        resolve()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((column("labels", 7),), r"reads embedding 'vector' of annotation 'expert', but .* has .*vector \(labels\)"),
        ((FOUND, column("embedding", 8)), "has width 7 in one data set of the job and 8 in another"),
    ],
)
def test_columns_of_another_form_are_refused(
    resolve: Resolve, facts: Facts, found: tuple[AnnotationFacts, ...], said: str
) -> None:
    train = [{"uri": name} for name in "ab"[: len(found)]]
    with pytest.raises(PlanError, match=said):
        resolve({"data": {"kind": "shards", "train": train}}, facts=with_annotation(facts, *found))


def test_a_name_that_the_objective_does_not_read_is_refused(resolve: Resolve, facts: Facts) -> None:
    data = {"data": {**SHARDS, "annotations": {"dept": "dpt-large"}}}
    with pytest.raises(PlanError, match="names 'dept', but objective 'clip' reads expert"):
        resolve(data, facts=with_annotation(facts, FOUND))
    with pytest.raises(PlanError, match="names 'dept', but objective 'catlip' reads no annotation"):
        resolve(data | {"objective": {"name": "catlip"}})


def test_synthetic_data_has_none(resolve: Resolve) -> None:
    with pytest.raises(PlanError, match="reads expert, which synthetic data lacks"):
        resolve({"data": {"kind": "synthetic"}})
