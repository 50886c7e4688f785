"""Whether charts say which objective is which, however many there are and however long their names."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from browser import CHROMIUM, open_browser
from comparisons import METRIC, comparison
from orchestrator.evaluation.comparison import ComparisonResult, CurvePoint, TrialCost
from orchestrator.evaluation.verdict import find_verdict
from orchestrator.report.charts import color_of, draw_differences, draw_scores, shape_of
from orchestrator.report.contents import Contents
from orchestrator.report.page import render_page
from orchestrator.report.tables import pair_table

LONG = ("siglip-vit_b16-batch-1024-mm30", "siglip-vit_b16-batch-2048-mm30", "clip-vit_b16-batch-1024-mmmm30")
BATCHES = tuple(f"{name}-{size}" for size in (512, 2048, 8192) for name in ("clip", "siglip"))
MANY = tuple(f"objective-number-{number:02d}" for number in range(20))
_OVERFLOWS = """[...document.querySelectorAll(".drawing")].filter(one => one.offsetWidth).flatMap(one => {
  const inside = one.querySelector("svg").getBoundingClientRect();
  return [...one.querySelectorAll("text")].filter(text => {
    const own = text.getBoundingClientRect();
    return own.left < inside.left - 1 || own.right > inside.right + 1 || own.top < inside.top - 1;
  }).map(text => text.textContent);
})"""


def compared(labels: Sequence[str]) -> ComparisonResult:
    """Each clearly better than the one before it, with a curve and a cost."""
    made = comparison({label: [0.3 + 0.03 * i + 0.001 * j for j in range(3)] for i, label in enumerate(labels)})
    cost = TrialCost(step_s=50, data_wait_s=10, evaluation_s=5, samples_per_s=500)
    trials = tuple(one.model_copy(update={"curve": _curve(one.scores[METRIC]), "cost": cost}) for one in made.trials)
    return made.model_copy(update={"trials": trials})


def _curve(score: float) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(step=x, samples=x, train_s=x, flops=x, scores={METRIC: score * x / 2}, schedule_ended=x == 2)
        for x in (1, 2)
    )


@pytest.mark.parametrize("labels", [LONG, BATCHES])
def test_names_in_charts_are_whole(labels: Sequence[str]) -> None:
    made = compared(labels)
    verdict = find_verdict(made, {})
    differences = draw_differences(made, verdict.pairs, verdict.told)
    assert differences is not None
    for drawing in differences.drawings:
        shown = re.findall(r">([^<>]+)<", drawing)
        for pair in verdict.pairs:
            assert {pair.ahead, f"− {pair.behind}"} <= set(shown)
    for drawing in draw_scores(made, verdict.spreads).drawings:
        assert set(labels) <= set(re.findall(r">([^<>]+)<", drawing))


@pytest.mark.parametrize("spread", [0.3, 0.02, 0.002, 0.0001])
def test_an_axis_tells_scores_apart_that_are_close(spread: float) -> None:
    made = comparison({"clip": [0.6613, 0.6613 + spread / 2], "catlip": [0.6613 + spread / 3, 0.6613 + spread]})
    (drawing, *_) = draw_scores(made, find_verdict(made, {}).spreads).drawings
    ticks = re.findall(r">([\d.]+%)<", drawing)
    assert len(set(ticks)) == len(ticks) > 1


def test_of_many_pairs_those_that_the_sentence_tells_are_drawn_and_the_table_has_all() -> None:
    made = compared(MANY)
    verdict = find_verdict(made, {})
    chart = draw_differences(made, verdict.pairs, verdict.told)
    assert chart is not None
    assert chart.title.endswith("; 6 of 190 pairs")
    assert all(float(re.findall(r'<svg[^>]* height="([\d.]+)"', drawing)[0]) < 700 for drawing in chart.drawings)
    rows = pair_table(made, verdict.pairs).rows
    assert len(rows) == 190
    assert rows[0][:3] == ("objective-number-19 against objective-number-18", "3.0", "3.0 to 3.0")


def test_no_two_objectives_look_alike() -> None:
    made = compared([f"o{number}" for number in range(26)])
    looks = {(color_of(made, one.label), shape_of(made, one.label)) for one in made.objectives}
    assert len(looks) == 26
    page = render_page(Contents(made, find_verdict(made, {}), None, ""))
    assert page.count('class="key square"') == page.count('class="key diamond"') > 0


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the path (Debian: chromium)")
def test_a_browser_shows_names_without_overflow(page_file: Path) -> None:
    with open_browser(page_file.parent / "profile") as page:
        for labels in (LONG, BATCHES, ("abcdefghijkmmm", "short"), MANY):
            made = compared(labels)
            page_file.write_text(render_page(Contents(made, find_verdict(made, {}), None, "")))
            for width in (1280, 390):
                page.open(page_file, width)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.evaluate(_OVERFLOWS) == [], (labels, width)
