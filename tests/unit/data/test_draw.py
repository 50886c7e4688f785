import subprocess
import sys

import numpy as np

from orchestrator.data.draw import SampleDraw


def test_a_draw_depends_on_every_field_and_on_its_purpose() -> None:
    base = {"seed": 1, "epoch": 2, "dataset": 3, "shard": 4, "index": 5}
    draws = [SampleDraw(**base), *(SampleDraw(**{**base, name: value + 1}) for name, value in base.items())]
    numbers = [draw.uniform("crop") for draw in draws]
    numbers += [draws[0].uniform("flip"), draws[0].uniform("crop", attempt=1)]
    assert len(set(numbers)) == len(numbers)


def test_fields_do_not_stand_for_each_other() -> None:
    assert SampleDraw(1, 2, 0, 0, 0).uniform("a") != SampleDraw(2, 1, 0, 0, 0).uniform("a")
    assert SampleDraw(0, 0, 0, 1, 0).uniform("a") != SampleDraw(0, 0, 0, 0, 1).uniform("a")


def test_the_same_draw_in_another_process_gives_the_same_number() -> None:
    code = "from orchestrator.data.draw import SampleDraw; print(SampleDraw(7, 1, 0, 12, 345).uniform('crop_area'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(other) == SampleDraw(7, 1, 0, 12, 345).uniform("crop_area")


def test_uniform_is_uniform_and_uncorrelated_between_neighbours_and_purposes() -> None:
    num = 20_000
    first = np.array([SampleDraw(0, 0, 0, 0, index).uniform("a") for index in range(num)])
    second = np.array([SampleDraw(0, 0, 0, 0, index).uniform("b") for index in range(num)])
    assert first.min() >= 0
    assert first.max() < 1
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    chi_squared = ((counts - num / 20) ** 2 / (num / 20)).sum()
    assert chi_squared < 43.8  # 99.9 % of 19 degrees of freedom; the numbers are fixed, so this cannot flicker
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_integers_cover_their_range_evenly() -> None:
    counts = np.bincount([SampleDraw(3, 0, 0, 0, index).integer("caption", 5) for index in range(10_000)])
    assert len(counts) == 5
    assert abs(counts - 2000).max() < 200
