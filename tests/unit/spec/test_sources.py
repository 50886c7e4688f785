"""Several sources: shares that add up, known before anything starts, and part of what a run is."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.errors import PlanError
from orchestrator.spec.describe import describe_plan
from orchestrator.spec.facts import Facts, ShardsFacts
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.plan import Plan

Resolve = Callable[..., Plan]


def sources(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"kind": "shards", "train": list(entries)}}


def facts_of(facts: Facts, *sizes: int, **more: Any) -> Facts:
    train = tuple(
        ShardsFacts(uri=f"file:///data/{name}", digest=name, num_shards=2, num_samples=size, bytes=1, **more)
        for name, size in zip("abcdef", sizes, strict=False)
    )
    return facts.model_copy(update={"train": train})


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "train names no source"),
        ([{"uri": "a", "proportion": 0.5}, {"uri": "b", "proportion": 0.4}], r"add up to 0\.9; wanted 1"),
        ([{"uri": "a", "weight": 1}, {"uri": "b"}], "source b has no weight"),
        ([{"uri": "a", "weight": 1, "proportion": 1}], "both weight and proportion"),
    ],
)
def test_shares_that_make_no_sense_are_refused(entries: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ShardsSpec.model_validate(sources(*entries)["data"])


def test_a_caption_weight_of_no_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="caption_weights names 'alt'"):
        ShardsSpec.model_validate({"kind": "shards", "train": "a", "caption_weights": {"alt": 2}})


def test_more_captions_of_an_image_than_fields_that_hold_them_are_refused() -> None:
    with pytest.raises(ValidationError, match="captions_per_image is 2; caption_fields has only txt"):
        ShardsSpec.model_validate({"kind": "shards", "train": "a", "captions_per_image": 2})


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ([{}, {}], [3, 1]),
        ([{"weight": 2}, {"weight": 0.5}], [4, 1]),
        ([{"proportion": 0.9}, {"proportion": 0.1}], [9, 1]),
    ],
)
def test_shares_become_whole_numbers(
    resolve: Resolve, facts: Facts, shares: list[dict[str, Any]], weights: list[int]
) -> None:
    entries = [{"uri": name, **share} for name, share in zip("ab", shares, strict=True)]
    plan = resolve(sources(*entries), facts=facts_of(facts, 3000, 1000))
    assert [source.weight for source in plan.data.sources] == weights
    assert plan.data.num_samples == 4000


def test_a_selection_counts_by_what_it_keeps(resolve: Resolve, facts: Facts) -> None:
    entries = [{"uri": name, "select": {"where": {"width": {"min": 200}}}} for name in "ab"]
    known = facts_of(facts, 3000, 1000, selection="f00", num_kept=500)
    plan = resolve(sources(*entries), facts=known)
    assert [source.weight for source in plan.data.sources] == [1, 1]
    assert plan.data.num_samples == 1000
    unselected = resolve(sources({"uri": "a"}, {"uri": "b"}), facts=facts_of(facts, 3000, 1000))
    assert plan.identity_digest != unselected.identity_digest


def test_a_share_below_two_samples_of_a_window_is_refused(resolve: Resolve, facts: Facts) -> None:
    entries = [{"uri": "a", "weight": 5000}, {"uri": "b", "weight": 1}]
    with pytest.raises(PlanError, match=r"file:///data/b has a share of 0\.0002.*data\.shuffle_window to 10,002"):
        resolve(sources(*entries), facts=facts_of(facts, 3000, 1000))


def test_a_source_that_is_not_ready_is_named(resolve: Resolve, facts: Facts) -> None:
    with pytest.raises(PlanError, match=r"file:///data/a file:///data/b"):
        resolve(sources({"uri": "a"}, {"uri": "b"}), facts=facts_of(facts, 3000))


def test_a_virtual_epoch_is_what_the_budget_counts(resolve: Resolve, facts: Facts) -> None:
    document = sources({"uri": "a"}, {"uri": "b"})
    document["data"]["epoch_samples"] = 1024
    plan = resolve({**document, "budget": {"epochs": 2}}, facts=facts_of(facts, 3000, 1000))
    assert plan.samples == 2048
    drawn = sources({"uri": "a", "with_replacement": True}, {"uri": "b", "weight": None})
    drawn["data"]["epoch_samples"] = 10_000  # more than there are
    assert resolve({**drawn, "budget": {"epochs": 0.5}}, facts=facts_of(facts, 3000, 1000)).samples == 5120


def test_a_source_with_replacement_is_another_run_and_said(resolve: Resolve, facts: Facts) -> None:
    entries = [{"uri": "a"}, {"uri": "b", "with_replacement": True}]
    known = facts_of(facts, 3000, 1000)
    plan = resolve(sources(*entries), facts=known)
    assert [source.with_replacement for source in plan.data.sources] == [False, True]
    assert plan.identity_digest != resolve(sources({"uri": "a"}, {"uri": "b"}), facts=known).identity_digest
    described = dict(describe_plan(plan))["data"]
    assert "train (75.0%):" in described
    assert "train (25.0%, with replacement):" in described


@pytest.mark.parametrize("selected", [None, 100])
def test_a_data_set_smaller_than_one_global_batch_is_refused(
    resolve: Resolve, facts: Facts, selected: int | None
) -> None:
    few = facts_of(facts, 100 if selected is None else 3000, num_kept=selected)
    said = r"batch\.global_size is 256, but file:///data/a holds 100 samples to train on; wanted at least one"
    with pytest.raises(PlanError, match=said):
        resolve(sources({"uri": "a"}), facts=few)
    assert resolve(sources({"uri": "a"}), facts=facts_of(facts, 256)).data.num_samples == 256
