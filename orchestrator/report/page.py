"""From a report's contents to one HTML text: nothing is fetched, and every value is escaped by the template engine."""

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.evaluation.comparison import ComparisonResult, TrialResult
from orchestrator.evaluation.metric_words import describe_metric, format_score, set_of
from orchestrator.report.charts import (
    color_of,
    draw_cost,
    draw_curves,
    draw_differences,
    draw_scores,
    draw_throughput,
    shape_of,
    wants_key,
)
from orchestrator.report.contents import Contents, plan_text
from orchestrator.report.tables import ledger_table, pair_table, say_duplicates, score_table, search_table, trial_table

_TEMPLATES = "templates"


def render_page(contents: Contents) -> str:
    """The whole page."""
    comparison, verdict, trials = contents.comparison, contents.verdict, contents.replicates
    cooldowns = contents.cooldowns
    searched = [trial for trial in comparison.trials if trial.phase == "search"]
    environment = Environment(
        loader=PackageLoader("orchestrator.report", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = Markup  # Vega escapes what it writes
    return environment.get_template("report.html.j2").render(
        comparison=comparison,
        verdict=verdict,
        metric=describe_metric(comparison.primary_metric),
        set_name=set_of(comparison.primary_metric),
        colors={one.label: color_of(comparison, one.label) for one in comparison.objectives},
        shapes={one.label: shape_of(comparison, one.label) for one in comparison.objectives},
        wants_key=wants_key(comparison),
        num_replicates=max((trial.replicate for trial in trials), default=-1) + 1,
        baselines=[(one.objective, _say_baseline(comparison, one)) for one in comparison.baselines],
        scores_chart=draw_scores(comparison, verdict.spreads) if verdict.spreads else None,
        differences_chart=draw_differences(comparison, verdict.pairs, verdict.told),
        pairs=pair_table(comparison, verdict.pairs),
        curves=draw_curves(comparison, trials),
        cost_chart=draw_cost(comparison, trials),
        throughput_chart=draw_throughput(comparison, trials),
        scores=score_table(comparison, trials),
        search=search_table(comparison),
        bought=trial_table(comparison, trials),
        cooled=trial_table(comparison, cooldowns) if cooldowns else None,
        searched=trial_table(comparison, searched) if searched else None,
        duplicates=say_duplicates(comparison, trials),
        ledger=ledger_table([*trials, *cooldowns, *searched]),
        sheet=contents.sheet,
        without_sheet=contents.without_sheet,
        runs=[(trial, _mlflow_page(comparison, trial)) for trial in (*trials, *cooldowns, *searched)],
        parent_page=_run_page(comparison.tracking_uri, comparison.mlflow_run_id),
        is_server=_is_server(comparison.tracking_uri),
        plan=plan_text(comparison) if comparison.plan else "",
        style=Markup(_read("report.css")),
        script=Markup(_read("report.js")),
    )


def _say_baseline(comparison: ComparisonResult, baseline: TrialResult) -> str:
    """Its score of the primary metric, or why it has none."""
    metric = comparison.primary_metric
    if metric in baseline.scores:
        return format_score(metric, baseline.scores[metric])
    return baseline.reason or ("has no such score" if baseline.status == "finished" else "not judged yet")


def _mlflow_page(comparison: ComparisonResult, trial: TrialResult) -> str | None:
    return _run_page(comparison.tracking_uri, trial.mlflow_run_id)


def _run_page(tracking_uri: str, run_id: str | None) -> str | None:
    """A run's page on its server; none where no server has one."""
    return f"{tracking_uri.rstrip('/')}/#/runs/{run_id}" if run_id is not None and _is_server(tracking_uri) else None


def _is_server(tracking_uri: str) -> bool:
    return tracking_uri.startswith(("http://", "https://"))


def _read(name: str) -> str:
    return files("orchestrator.report").joinpath(_TEMPLATES, name).read_text(encoding="utf-8")
