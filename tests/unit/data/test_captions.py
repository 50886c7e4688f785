import pytest

from orchestrator.columns import SKIP_REASONS
from orchestrator.data.captions import draw_captions, find_caption_faults
from orchestrator.data.draw import SampleDraw
from orchestrator.data.sample import BadSampleError, RawSample


def choose(members: dict[str, bytes], fields: tuple[str, ...] = ("txt",), epoch: int = 0) -> str:
    ((field, caption),) = draw_captions(RawSample(0, "a", members), fields, SampleDraw(0, epoch, 0, 0, 0))
    assert field in members
    return caption


def test_caption_is_stripped_text() -> None:
    assert choose({"txt": " a café\n".encode()}) == "a café"


def test_with_several_fields_each_has_its_epochs() -> None:
    members = {"a": b"one", "b": b"two"}
    chosen = [choose(members, ("a", "b"), epoch) for epoch in range(40)]
    assert set(chosen) == {"one", "two"}
    assert chosen == [choose(members, ("a", "b"), epoch) for epoch in range(40)]


def test_a_field_that_is_not_there_is_not_drawn() -> None:
    assert {choose({"a": b" ", "b": b"two"}, ("a", "b", "c"), epoch) for epoch in range(20)} == {"two"}


def test_weights_say_how_often_a_field_is_drawn() -> None:
    sample, weights = RawSample(0, "a", {"a": b"one", "b": b"two", "c": b"three"}), {"a": 3.0, "c": 0.0}
    draws = [SampleDraw(0, 0, 0, 0, index) for index in range(2000)]
    chosen = [draw_captions(sample, ("a", "b", "c"), draw, weights)[0][1] for draw in draws]
    assert 0.71 < chosen.count("one") / 2000 < 0.79
    assert "three" not in chosen


def test_several_captions_are_drawn_without_one_twice_and_in_any_order() -> None:
    sample = RawSample(0, "a", {"a": b"one", "b": b"two", "c": b"three"})
    draws = [SampleDraw(0, 0, 0, 0, index) for index in range(200)]
    pairs = [draw_captions(sample, ("a", "b", "c"), draw, count=2) for draw in draws]
    assert all(len(set(pair)) == 2 for pair in pairs)
    assert len(set(pairs)) == 6
    assert [pair[0] for pair in pairs] == [draw_captions(sample, ("a", "b", "c"), draw)[0] for draw in draws]


def test_captions_that_are_too_few_are_repeated_in_their_order() -> None:
    draw = SampleDraw(0, 0, 0, 0, 0)
    first, second, *rest = draw_captions(RawSample(0, "a", {"a": b"1", "b": b"2"}), ("a", "b", "c"), draw, count=5)
    assert {first, second} == {("a", "1"), ("b", "2")}
    assert rest == [first, second, first]
    never = {"b": 0.0}
    twice = draw_captions(RawSample(0, "a", {"a": b"1", "b": b"2"}), ("a", "b"), draw, never, count=2)
    assert twice == (("a", "1"), ("a", "1"))


@pytest.mark.parametrize(
    "data", [b"caption", b"\x0c caption\t of\r\ntwo lines \x0b\n", "Straße 世界 🙂\u200b".encode()]
)
def test_white_space_and_other_languages_are_no_faults(data: bytes) -> None:
    """Neither for whoever verifies nor for whoever trains."""
    assert list(find_caption_faults(RawSample(0, "a", {"txt": data}), ("txt",))) == []
    assert choose({"txt": data}) == data.decode().strip()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({}, "caption_missing"),
        ({"txt": b" \n"}, "caption_missing"),
        ({"txt": b"\xff\xfe"}, "caption_undecodable"),
        ({"txt": b"a red\0 cube"}, "caption_broken"),
        ({"txt": "Stra\ufffde".encode()}, "caption_broken"),
        ({"txt": "\x85 a \x9f cube".encode()}, "caption_broken"),
    ],
)
def test_bad_caption_has_a_reason_that_blocks_can_carry(members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(BadSampleError) as caught:
        choose(members)
    assert caught.value.reason == reason
    assert SKIP_REASONS[caught.value.code] == reason
