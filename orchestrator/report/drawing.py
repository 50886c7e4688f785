"""From a chart to SVG, by Vega-Lite: widths, styles, and where the names of rows stand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

WIDE, NARROW = 520, 340
TICKS = 5
"""Of an axis of scores, more or less."""
INK, MUTED, LINE, PAPER = "var(--ink)", "var(--muted)", "var(--line)", "var(--paper)"
_CHAR, _LINE_HEIGHT = 8, 16  # pixels of a name at its size, in a wide font: the reader's is unknown here
_LEAST_PLOT = 250  # pixels that names leave beside them: as wide as a legend


@dataclass(frozen=True)
class Chart:
    """One chart; what screen readers say of it, and its drawings, widest first."""

    title: str
    description: str
    drawings: tuple[str, ...]
    """SVG, safe to put into a page."""


def draw_rows(chart: Any, names: Sequence[str], row: int, above: int) -> tuple[str, ...]:
    """SVG of a chart whose rows have names, at both widths: at their left where they fit, else above each row.

    Args:
        names: may have several lines.
        row: height of one, in pixels.
        above: what a row shows above its middle, in pixels.
    """
    lines = [name.split("\n") for name in names]
    taken = _CHAR * max(len(line) for own in lines for line in own) + 8
    depth = _LINE_HEIGHT * max(map(len, lines))
    below_first = depth - _LINE_HEIGHT  # Vega hangs lines from the first one
    beside = {"minExtent": taken, "labelOffset": -below_first / 2}
    over = {
        "labelAlign": "left",
        "labelBaseline": "line-bottom",
        "labelPadding": 0,
        "labelOffset": -above - below_first,
    }
    drawn: list[str] = []
    for width in (WIDE, NARROW):
        fits = width - taken >= _LEAST_PLOT
        height = (row if fits else row + depth) * len(names)
        drawn += draw(chart, height, width, labels=beside if fits else over)
    return tuple(drawn)


def row_names() -> alt.Axis:
    """The axis of a chart for ``draw_rows``."""
    return alt.Axis(
        labelLimit=0,
        labelColor=INK,
        labelFontSize=13,
        labelLineHeight=_LINE_HEIGHT,
        labelExpr="split(datum.label, '\\n')",
    )


def draw(
    chart: Any, height: int, *widths: int, margin: int = 0, labels: dict[str, Any] | None = None
) -> tuple[str, ...]:
    """SVG of a chart at each outer width; ``margin`` is kept free at the right; ``labels``: of the vertical axis."""
    drawn = []
    for width in widths:
        sized = chart.properties(
            width=width,
            height=height,
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
            padding={"left": 2, "right": 8 + margin, "top": 8, "bottom": 2},
            background="transparent",
        )
        styled = (
            sized.configure(font="inherit")
            .configure_view(stroke=None, clip=False)
            .configure_axis(
                domain=False,
                ticks=False,
                gridColor=LINE,
                labelColor=MUTED,
                titleColor=MUTED,
                labelFontSize=12,
                titleFontSize=12,
                titleFontWeight="normal",
                labelPadding=8,
            )
            .configure_axisY(gridOpacity=0.6, **(labels or {}))
            .configure_text(fontSize=12)
        )
        spec = styled.to_dict()
        spec["config"]["legend"] = {
            "layout": {"top": {"anchor": "start", "bounds": "full"}}
        }  # Altair has no word for it
        version = ".".join(alt.SCHEMA_VERSION[1:].split(".")[:2])
        drawn.append(vl_convert.vegalite_to_svg(spec, vl_version=version))
    return tuple(drawn)


def digits_of(span: float) -> int:
    """Behind the point, of numbers that divide ``span``; none where there is none to divide."""
    return max(0, math.ceil(-math.log10(span / TICKS))) if span > 0 else 0
