"""What crosses the tracker's interface."""

from orchestrator.tracking.tracker import Unshipped, flat_params


def test_nested_settings_become_dotted_names() -> None:
    tree = {"a": 1, "b": {"c": None, "d": {"e": [1, 2]}}, "empty": {}}
    assert flat_params(tree) == {"a": 1, "b.c": None, "b.d.e": [1, 2]}


def test_what_is_left_is_told_from_what_nobody_will_deliver() -> None:
    text = str(Unshipped(entries=3, size_bytes=90, refused=1, dropped=2, journal="/x/worker.jsonl"))
    assert text.split("; ") == [
        "3 entries (90 bytes) not delivered, which 'orchestrator runs --sync' does",
        "journal /x/worker.jsonl",
        "1 refused by the server, which no later delivery changes",
        "kept in /x/worker.refused.jsonl",
        "2 dropped by the full journal /x/worker.jsonl, which are lost",
    ]


def test_of_what_was_refused_no_delivery_is_promised() -> None:
    text = str(Unshipped(entries=0, size_bytes=0, refused=1, dropped=0, journal="/x/worker.jsonl"))
    assert "--sync" not in text
