"""Requests that run ahead of whoever takes their answers."""

import threading
from contextlib import closing

import pytest

from orchestrator.storage.ahead import map_ahead


def test_answers_come_in_order_whichever_is_ready_first():
    second = threading.Event()

    def answer(number: int) -> int:
        if number == 0:
            assert second.wait(30)
        if number == 1:
            second.set()
        return number * number

    assert list(map_ahead(answer, range(20), threads=2, ahead=4)) == [number * number for number in range(20)]


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_are_begun_than_may_wait_to_be_taken(ahead):
    taken, begun = 0, []

    def begin() -> object:
        for number in range(10):
            begun.append(number)
            assert len(begun) - taken <= ahead
            yield number

    for _ in map_ahead(str, begin(), threads=2, ahead=ahead):
        taken += 1
    assert (taken, len(begun)) == (10, 10)


def test_after_an_error_or_a_close_nothing_begins_any_more():
    asked = []

    def ask(number: int) -> int:
        asked.append(number)
        if number == 2:
            raise ValueError("two")
        return number

    answers = map_ahead(ask, range(100), threads=1, ahead=2)
    with pytest.raises(ValueError, match="two"):
        list(answers)
    assert len(asked) <= 4
    asked.clear()
    with closing(map_ahead(ask, range(3, 100), threads=1, ahead=2)) as answers:
        assert next(answers) == 3
    assert len(asked) <= 2, "closing waits for what has begun"
