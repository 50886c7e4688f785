"""Who may ask work to stop: a signal for all of it, or somebody for a part."""

from orchestrator.runs.interrupts import StopRequest


def test_a_part_stops_with_the_whole_and_by_itself() -> None:
    whole = StopRequest()
    one, other = StopRequest(whole), StopRequest(whole)
    one.ask("asha stopped it")
    assert (one.requested, other.requested, whole.requested) == (True, False, False)
    whole.ask("SIGINT")
    whole.ask("SIGTERM")
    assert [request.reason for request in (one, other, whole)] == ["asha stopped it", "SIGINT", "SIGINT"]
