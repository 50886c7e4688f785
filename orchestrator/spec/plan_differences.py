"""What differs between two plans, where one is to go on with what the other began."""

from collections.abc import Collection, Iterator
from typing import Any

from orchestrator.spec.plan import Plan


def compare_plans(ours: Plan, theirs: Plan, apart_from: Collection[str] = ()) -> list[str]:
    """One line per difference that keeps ``ours`` from going on where ``theirs`` ended.

    Args:
        apart_from: keys of the identity that may differ.
    """
    identities = ({key: own for key, own in plan.identity.items() if key not in apart_from} for plan in (ours, theirs))
    return [*compare_identities(*identities), *_compare_layouts(ours, theirs)]


def _compare_layouts(ours: Plan, theirs: Plan) -> Iterator[str]:
    """Sources that the identity takes for the same, since paths, sizes and counts are, but are not."""
    before = {source.shards.digest: source.shards.layout for source in theirs.data.sources}
    for shards in (source.shards for source in ours.data.sources):
        known = before.get(shards.digest)
        if known and shards.layout and known != shards.layout:
            yield f"{shards.uri}: shards were written again since; sizes are the same, but samples lie at other places"


def compare_identities(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """One line per difference, as ``key: theirs -> ours``."""
    keys = sorted(ours.keys() | theirs.keys())
    return [f"{key}: {theirs.get(key)!r} -> {ours.get(key)!r}" for key in keys if ours.get(key) != theirs.get(key)]
