"""A comparison's charts as SVG, drawn by Vega-Lite when the page is written: the page itself runs no plotting code.

Colours are the page's own CSS variables, so that a chart turns dark with its page. Each chart is drawn at one or two
widths, of which the page shows the one that fits.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import altair as alt

from orchestrator.evaluation.comparison import ComparisonResult, TrialResult
from orchestrator.evaluation.metric_words import format_difference, is_share, unit_of_difference
from orchestrator.evaluation.objective_pairs import PairVerdict, Spread
from orchestrator.report.drawing import INK, MUTED, NARROW, PAPER, TICKS, Chart, digits_of, draw, draw_rows, row_names

Row = dict[str, Any]

_NUM_COLORS = 8
_SHAPES = ("circle", "square", "diamond", "triangle-up")
_MOST_PAIRS = 15
_MOST_NAMES, _LONGEST_NAME = 8, 16  # that find place at the ends of lines
_LABEL_GAP = 0.07  # of the height, between labels at the ends of lines


def color_of(comparison: ComparisonResult, label: str) -> str:
    """The objective's colour, by its place in the comparison's file."""
    labels = [one.label for one in comparison.objectives]
    return f"var(--objective-{labels.index(label) % _NUM_COLORS + 1})"


def shape_of(comparison: ComparisonResult, label: str) -> str:
    """The shape of the objective's points: another one where colours begin anew."""
    labels = [one.label for one in comparison.objectives]
    return _SHAPES[labels.index(label) // _NUM_COLORS % len(_SHAPES)]


def draw_scores(comparison: ComparisonResult, spreads: Sequence[Spread]) -> Chart:
    """Each replicate a dot, their mean a tick."""
    rows = [{"objective": one.objective, "score": score} for one in spreads for score in one.scores]
    means = [{"objective": one.objective, "score": one.mean, "label": _say(comparison, one.mean)} for one in spreads]
    order = [one.objective for one in spreads]
    axis = _score_axis(comparison, [score for one in spreads for score in one.scores])
    x = alt.X("score:Q", title=None, axis=axis, scale=alt.Scale(zero=False, padding=24))
    y = alt.Y("objective:N", sort=order, title=None, axis=row_names())
    color = _by_objective(comparison, order)
    dots = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, size=70, opacity=0.55)
    dots = dots.encode(x=x, y=y, color=color, shape=_by_shape(comparison, order))
    ticks = alt.Chart(alt.Data(values=means)).mark_tick(thickness=3, size=26).encode(x=x, y=y, color=color)
    label = ticks.mark_text(dy=-20, fontWeight=600, color=INK).encode(x=x, y=y, text="label:N", color=alt.value(INK))
    description = "; ".join(f"{row['objective']}: {row['label']} on the mean" for row in means)
    layers = alt.layer(dots, ticks, label)
    return Chart("Scores by replicate", description, draw_rows(layers, order, 54, above=30))


def draw_differences(
    comparison: ComparisonResult, pairs: Sequence[PairVerdict], told: Sequence[PairVerdict]
) -> Chart | None:
    """Each pair's difference with its interval, against zero; of many the told; none where there is none."""
    metric = comparison.primary_metric
    factor = 100 if is_share(metric) else 1
    drawn = pairs if len(pairs) <= _MOST_PAIRS else told
    rows: list[Row] = [
        {
            "pair": f"{pair.ahead}\n− {pair.behind}",
            "mean": factor * found.mean,
            "low": factor * found.low,
            "high": factor * found.high,
            "label": f"{format_difference(metric, found.mean)} ({format_difference(metric, found.low)} to "
            f"{format_difference(metric, found.high)})",
            "shown": pair.is_shown,
        }
        for pair in drawn
        if (found := pair.difference) is not None
    ]
    if not rows:
        return None
    unit = unit_of_difference(metric)
    data = alt.Data(values=rows)
    axis = alt.Axis(title=unit, tickCount=5)
    y = alt.Y("pair:N", sort=None, title=None, axis=row_names())
    color = alt.condition("datum.shown", alt.value("var(--accent)"), alt.value(MUTED))
    scale = alt.Scale(padding=12)
    zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x="x:Q")
    rule = (
        alt.Chart(data)
        .mark_rule(strokeWidth=2.5)
        .encode(x=alt.X("low:Q", axis=axis, scale=scale, title=unit), x2="high:Q", y=y, color=color)
    )
    dot = alt.Chart(data).mark_circle(size=90, opacity=1).encode(x="mean:Q", y=y, color=color)
    words = alt.Chart(alt.Data(values=_align(rows))).encode(x="mean:Q", y=y, text="label:N")
    align = alt.ExprRef("datum.align")
    halo = words.mark_text(dy=-14, align=align, stroke=PAPER, strokeWidth=5, strokeJoin="round")
    label = words.mark_text(dy=-14, align=align, color=INK)
    description = "; ".join(f"{row['pair']}: {row['label']} {unit}".replace("\n", " ") for row in rows)
    drawings = draw_rows(alt.layer(zero, rule, dot, halo, label), [row["pair"] for row in rows], 54, above=24)
    title = "Differences, 95 % intervals each (grey: none shown)"
    title += f"; {len(drawn)} of {len(pairs)} pairs" * (len(drawn) < len(pairs))
    return Chart(title, description, drawings)


def _align(rows: Sequence[Row]) -> list[Row]:
    """Rows whose words stay inside the chart: those near its sides grow inwards."""
    low, high = (end(0, *(row[key] for row in rows)) for end, key in ((min, "low"), (max, "high")))
    places = [3 * (row["mean"] - low) / (high - low or 1) for row in rows]
    return [
        {**row, "align": "left" if place < 1 else "center" if place <= 2 else "right"}
        for row, place in zip(rows, places, strict=True)
    ]


def draw_curves(comparison: ComparisonResult, trials: Sequence[TrialResult]) -> list[Chart]:
    """The primary metric against each budget: samples, seconds, FLOPs; replicates thin, their mean bold."""
    axes = (("samples", "samples seen"), ("train_s", "seconds of training"), ("flops", "training FLOPs"))
    charts = []
    for key, title in axes:
        rows = list(_curve_rows(comparison, trials, key))
        if rows and any(row["x"] for row in rows):
            charts.append(_draw_curve(comparison, rows, title))
    return charts


def draw_cost(comparison: ComparisonResult, trials: Sequence[TrialResult]) -> Chart | None:
    """Seconds of a replicate (mean): steps, waits for data, evaluation; and once, an objective's search and what was
    made for it."""
    rows: list[Row] = []
    is_searched = any(comparison.search_s(one.label) for one in comparison.objectives)
    for one in comparison.objectives:
        own = [trial.cost for trial in trials if trial.objective == one.label]
        if not own:
            continue
        parts = {
            "steps": _mean([cost.step_s for cost in own]),
            "data wait": _mean([cost.data_wait_s for cost in own]),
            "evaluation": _mean([cost.evaluation_s for cost in own]),
            **_cooldown_part(comparison, [trial for trial in trials if trial.objective == one.label]),
            **({"search": comparison.search_s(one.label)} if is_searched else {}),
            "own preparation": one.prepare_s,
        }
        rows += [
            {"objective": one.label, "part": part, "seconds": seconds, "place": place}
            for place, (part, seconds) in enumerate(parts.items())
        ]
    if not any(row["seconds"] for row in rows):
        return None
    parts_in_order = list(dict.fromkeys(row["part"] for row in rows))
    colors = [f"var(--part-{place + 1})" for place in range(len(parts_in_order))]
    legend = alt.Legend(title=None, orient="top", labelColor=INK, labelFontSize=12, symbolType="square", columns=2)
    bars = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(size=22)
        .encode(
            x=alt.X("seconds:Q", title=None, axis=alt.Axis(tickCount=5, format="~s")),
            y=alt.Y("objective:N", sort=None, title=None, axis=row_names()),
            color=alt.Color("part:N", scale=alt.Scale(domain=parts_in_order, range=colors), sort=None, legend=legend),
            order="place:Q",
        )
    )
    description = "; ".join(f"{row['objective']}, {row['part']}: {row['seconds']:,.0f} s" for row in rows)
    names = list(dict.fromkeys(row["objective"] for row in rows))
    return Chart(
        "Seconds of a replicate, by what they went into (search and preparation: once)",
        description,
        draw_rows(bars, names, 44, above=13),
    )


def _cooldown_part(comparison: ComparisonResult, replicates: Sequence[TrialResult]) -> dict[str, float]:
    """Seconds of the cooldowns of a replicate (mean), evaluation included; nothing where there are none."""
    costs = [[cooldown.cost for cooldown in comparison.cooldowns_of(trial)] for trial in replicates]
    if not any(costs):
        return {}
    return {"cooldowns": _mean([sum(one.step_s + one.data_wait_s + one.evaluation_s for one in own) for own in costs])}


def draw_throughput(comparison: ComparisonResult, trials: Sequence[TrialResult]) -> Chart | None:
    """Samples per second in training, of each objective's replicates on the mean."""
    rows: list[Row] = [
        {"objective": one.label, "speed": speed, "label": f"{speed:,.0f}"}
        for one in comparison.objectives
        if (own := [_speed(trial) for trial in trials if trial.objective == one.label and _speed(trial)])
        and (speed := _mean(own))
    ]
    if not rows:
        return None
    scale = alt.Scale(domain=[0, 1.2 * max(row["speed"] for row in rows)])  # with room for numbers behind the bars
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("speed:Q", title=None, axis=alt.Axis(tickCount=5, format="~s"), scale=scale),
        y=alt.Y("objective:N", sort=None, title=None, axis=row_names()),
    )
    bars = base.mark_bar(size=22, color="var(--part-1)")
    label = base.mark_text(align="left", dx=6, color=INK).encode(text="label:N")
    description = "; ".join(f"{row['objective']}: {row['label']}" for row in rows)
    names = [row["objective"] for row in rows]
    return Chart("Samples per second", description, draw_rows(alt.layer(bars, label), names, 44, above=13))


def _speed(trial: TrialResult) -> float:
    return trial.cost.samples_per_s or 0.0


def _curve_rows(comparison: ComparisonResult, trials: Sequence[TrialResult], key: str) -> Iterator[Row]:
    """One for each point of a replicate, and one for the mean of those at the same step.

    Where cooldowns end at rungs, lines join what has ended; points in mid-schedule stand apart.
    """
    metric = comparison.primary_metric
    for label, own in groupby(sorted(trials, key=lambda trial: trial.objective), key=lambda trial: trial.objective):
        by_step: dict[tuple[int, bool], list[Row]] = {}
        for trial in own:
            cooldowns = comparison.cooldowns_of(trial)
            for point in (*trial.curve, *(point for cooldown in cooldowns for point in cooldown.curve)):
                if metric in point.scores:
                    x, ended = float(getattr(point, key)), point.schedule_ended
                    row = {"x": x, "y": point.scores[metric], "ended": ended, "objective": label}
                    row |= {"joined": ended or not cooldowns}
                    by_step.setdefault((point.step, ended), []).append(row)
                    yield {**row, "line": f"{label} {trial.replicate}", "mean": False}
        for rows in by_step.values():
            means = {axis: _mean([row[axis] for row in rows]) for axis in ("x", "y")}
            yield {**rows[0], **means, "line": label, "mean": True}


def _draw_curve(comparison: ComparisonResult, rows: list[Row], title: str) -> Chart:
    order = [one.label for one in comparison.objectives if any(row["objective"] == one.label for row in rows)]
    color = _by_objective(comparison, order)
    x = alt.X("x:Q", title=None, axis=alt.Axis(format="~s", tickCount=4), scale=alt.Scale(padding=6))
    y = alt.Y("y:Q", title=None, axis=_score_axis(comparison, [row["y"] for row in rows]), scale=alt.Scale(zero=False))
    means = [row for row in rows if row["mean"]]
    of_trials, joined = (
        alt.Data(values=[row for row in rows if row["joined"] and row["mean"] == mean]) for mean in (False, True)
    )
    thin = alt.Chart(of_trials).mark_line(strokeWidth=1, opacity=0.3).encode(x=x, y=y, color=color, detail="line:N")
    bold = alt.Chart(joined).mark_line(strokeWidth=2.25).encode(x=x, y=y, color=color)
    fill = alt.condition("datum.ended", color, alt.value(PAPER))
    points = alt.Chart(alt.Data(values=means)).mark_point(size=46, strokeWidth=1.75, opacity=1)
    points = points.encode(x=x, y=y, stroke=color, fill=fill, shape=_by_shape(comparison, order))
    layers, margin = [thin, bold, points], 0
    ends = [max((row for row in means if row["objective"] == one), key=_x) for one in order]
    if not wants_key(comparison):
        span = max(row["y"] for row in rows) - min(row["y"] for row in rows) or 1.0
        names = alt.Chart(alt.Data(values=_spread_labels(ends, span)))
        names = names.mark_text(align="left", dx=9, fontWeight=600, fontSize=12)
        layers.append(names.encode(x=x, y="label_y:Q", text="objective:N", color=color))
        margin = 8 + 7 * max(len(one) for one in order)
    description = "; ".join(f"{row['objective']}: {_say(comparison, row['y'])} after {row['x']:,.3g}" for row in ends)
    drawings = draw(alt.layer(*layers), 210, NARROW, margin=margin)
    return Chart(title[0].upper() + title[1:], description, drawings)


def wants_key(comparison: ComparisonResult) -> bool:
    """Whether there are too many names, or too long ones, to stand at the ends of lines."""
    labels = [one.label for one in comparison.objectives]
    return len(labels) > _MOST_NAMES or max(map(len, labels)) > _LONGEST_NAME


def _spread_labels(ends: list[Row], span: float) -> list[Row]:
    """The ends of lines with heights for their labels, which keep a distance: a share of what the chart spans."""
    ends = sorted(ends, key=lambda row: row["y"])
    placed: list[Row] = []
    for row in ends:
        least = placed[-1]["label_y"] + _LABEL_GAP * span if placed else row["y"]
        placed.append({**row, "label_y": max(row["y"], least)})
    return placed


def _by_objective(comparison: ComparisonResult, order: Sequence[str]) -> alt.Color:
    colors = [color_of(comparison, label) for label in order]
    return alt.Color("objective:N", scale=alt.Scale(domain=list(order), range=colors), legend=None)


def _by_shape(comparison: ComparisonResult, order: Sequence[str]) -> alt.Shape:
    shapes = [shape_of(comparison, label) for label in order]
    return alt.Shape("objective:N", scale=alt.Scale(domain=list(order), range=shapes), legend=None)


def _score_axis(comparison: ComparisonResult, scores: Sequence[float]) -> alt.Axis:
    """With as many digits as tell its numbers apart, also where all scores are close."""
    span = max(scores) - min(scores)
    if not is_share(comparison.primary_metric):
        return alt.Axis(format=f".{digits_of(span)}f", tickCount=TICKS)
    return alt.Axis(format=f".{digits_of(100 * span)}%", tickCount=TICKS)


def _say(comparison: ComparisonResult, score: float) -> str:
    return f"{100 * score:.1f} %" if is_share(comparison.primary_metric) else f"{score:.1f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _x(row: Row) -> float:
    return float(row["x"])
