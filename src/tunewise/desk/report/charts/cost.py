"""The chart of quality against cost."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from tunewise.desk.analysis import costs as frontier
from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import wording
from tunewise.desk.report.charts.axes import HEIGHT, log_ticks, value_axis
from tunewise.desk.report.charts.canvas import AXIS, SURFACE, Canvas, Row, arm_colour, data, names, styled
from tunewise.desk.report.views.view import ArmView, Report

LOG_FROM = 4.0  # costs that differ by more than this factor get a logarithmic axis


COST_TITLES = {
    "train_seconds": "training time (seconds)",
    "saved_bytes": "weights on disk (MiB)",
    "peak_memory_bytes": "peak memory during training (MiB)",
}


def quality_against_cost(report: Report, canvas: Canvas) -> Any:
    """Share of full's gain kept by each arm (or the metric itself) vs. the cost that differs most between arms."""
    rows = cost_rows(report)
    metric = report.study.primary_metric
    title = "share of full's gain kept (%)" if _shows_gain(report) else wording.metric_title(metric, report.study.task)
    shared = alt.Chart(data(rows)).encode(x=_cost_axis(report, rows), color=arm_colour(report, names(rows)))
    points = shared.encode(y=value_axis(title))
    bars = shared.mark_rule(strokeWidth=6, strokeCap="round", opacity=0.4)
    layers = [
        bars.encode(y=value_axis(title, "low"), y2="high:Q"),
        points.mark_circle(size=110, opacity=1, stroke=SURFACE, strokeWidth=1.5),
    ]
    if _shows_gain(report):
        whole = alt.Chart(data([{"value": 100.0}])).mark_rule(stroke=AXIS, strokeDash=[4, 3])
        layers.insert(0, whole.encode(y="value:Q"))
    return styled(alt.layer(*layers), canvas, HEIGHT)


def _charted_cost(report: Report) -> str | None:
    return frontier.telling_cost({arm.name: arm.cost for arm in report.tuned_arms()})


def cost_rows(report: Report) -> list[Row]:
    """One row per arm with known cost and quality."""
    name = _charted_cost(report)
    if name is None:
        return []
    unit = 1.0 if name == "train_seconds" else 2.0**20
    # the reference of gain keeps none of it, and would only compress the scale
    known = [a for a in report.tuned_arms() if getattr(a, name) and a.metrics and a.name != report.study.reference_arm]
    costs = [getattr(arm, name) / unit for arm in known]
    rows = [{"arm": arm.name, "cost": cost, **_quality(report, arm)} for arm, cost in zip(known, costs, strict=True)]
    return [row for row in rows if row["value"] is not None]


def _shows_gain(report: Report) -> bool:
    return bool(report.verdicts) and all(verdict.gain_kept for verdict in report.verdicts)


def _quality(report: Report, arm: ArmView) -> Row:
    """The arm's quality with the ends of its interval, in display units."""
    if not _shows_gain(report):
        found, scale = arm.metrics[report.study.primary_metric], metric_named(report.study.primary_metric).scale
        ends = {"value": found.mean, "low": found.low, "high": found.high}
    elif arm.name == report.study.full_arm:
        scale, ends = 100.0, {"value": 1.0, "low": None, "high": None}
    else:
        kept = next(verdict.gain_kept for verdict in report.verdicts if verdict.arm == arm.name)
        assert kept is not None, "_shows_gain"
        scale, ends = 100.0, {"value": kept.estimate, "low": kept.low, "high": kept.high}
    return {key: None if end is None else end * scale for key, end in ends.items()}


def _cost_axis(report: Report, rows: Sequence[Row]) -> Any:
    title, costs = COST_TITLES[str(_charted_cost(report))], [row["cost"] for row in rows]
    if max(costs) <= LOG_FROM * min(costs):
        return alt.X("cost:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(grid=False, tickCount=5))
    axis = alt.Axis(values=log_ticks(costs), format=".3~g", grid=False, tickSize=4)
    scale = alt.Scale(type="log", nice=False, padding=30)
    return alt.X("cost:Q", title=f"{title}, logarithmic", scale=scale, axis=axis)
