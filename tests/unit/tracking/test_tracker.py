"""What crosses the tracker's interface."""

from orchestrator.tracking.tracker import Unshipped, flat_params


def test_nested_settings_become_dotted_names() -> None:
    tree = {"a": 1, "b": {"c": None, "d": {"e": [1, 2]}}, "empty": {}}
    assert flat_params(tree) == {"a": 1, "b.c": None, "b.d.e": [1, 2]}


def test_what_is_left_is_said_with_its_journal() -> None:
    text = str(Unshipped(entries=3, size_bytes=90, refused=1, dropped=2, journal="/x/worker.jsonl"))
    assert text == "3 entries (90 bytes) not delivered, 1 refused, 2 dropped; journal /x/worker.jsonl"
