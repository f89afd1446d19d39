"""The report's charts: Altair, drawn to SVG at two widths, from the view alone."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import altair as alt
import numpy as np

from tunewise.desk.analysis import costs as frontier
from tunewise.desk.report import wording
from tunewise.desk.report.canvas import (
    AXIS,
    FULL_WIDTH,
    HALF_WIDTH,
    PHONE,
    SURFACE,
    Canvas,
    Row,
    arm_colour,
    data,
    names,
    styled,
    to_svg,
)
from tunewise.desk.report.forest import forest
from tunewise.desk.report.rank_chart import rank_chart
from tunewise.desk.report.view import ArmView, Report
from tunewise.desk.statistics.metrics import METRICS
from tunewise.spec import TASKS

HEIGHT = 310
PARABOLA_POINTS = 25
FAR = 3.0  # spreads of the bracketing rates beyond which a worse rate is an arrow
LOG_FROM = 4.0  # costs further apart than this factor are drawn on a logarithmic axis

VALID_LOSS = "loss on valid (nats per token), better to the right"
FORGETTING = "forgetting (nats per token)"
FALLING = alt.Scale(zero=False, nice=False, padding=14, reverse=True)

COST_TITLES = {
    "train_seconds": "training time (seconds)",
    "saved_bytes": "weights on disk (MiB)",
    "peak_memory_bytes": "peak memory while training (MiB)",
}


@dataclass(frozen=True)
class Plan:
    """A chart that the report has data for, not drawn yet."""

    name: str  # of its file in figures/
    title: str
    caption: str
    paint: Callable[[Report, Canvas], Any]
    canvas: Canvas


@dataclass(frozen=True)
class Figure:
    """One chart at two widths, with the words around it."""

    name: str
    title: str
    caption: str
    wide: str  # SVG
    narrow: str  # SVG for a phone: text stays readable


def figures(report: Report) -> tuple[Figure, ...]:
    """Every chart for which the report has data."""
    return tuple(
        Figure(
            name=plan.name,
            title=plan.title,
            caption=plan.caption,
            wide=to_svg(plan.paint(report, plan.canvas)),
            narrow=to_svg(plan.paint(report, PHONE)),
        )
        for plan in _plans(report)
    )


def _plans(report: Report) -> Iterator[Plan]:
    if any(verdict.low is not None for verdict in report.verdicts):
        words = (
            "Bar: interval for new seeds and new data. Large dot: mean. Small dots: single seeds. Arrow: off the scale."
        )
        yield Plan("difference-to-full", "Difference to full fine-tuning", words, forest, FULL_WIDTH)
    if any(curve.train for arm in report.arms for curve in arm.learning_curves):
        words = "Line: mean over seeds. Band: all seeds."
        yield Plan("training-loss", "Training loss", words, training_loss, HALF_WIDTH)
    if any(curve.valid for arm in report.arms for curve in arm.learning_curves):
        words = "Line: mean over seeds. Dots: single seeds, filled where the weights were taken."
        yield Plan("validation", "Validation while training", words, validation, HALF_WIDTH)
    if any(point.valid_nll is not None for arm in report.arms for point in arm.learning_rate_curve):
        dashed = "Dashed: the parabola through it and its neighbours, whose dip below it is the headroom. "
        words = f"Filled: the chosen rate. {dashed if _valid_metric(report) == 'nll' else ''}Arrow: off the scale. "
        words += "×: did not finish."
        yield Plan("learning-rates", "Learning rates tried", words, learning_rates, HALF_WIDTH)
    if any(arm.forgetting_curve for arm in report.arms):
        words = (
            "Along the same steps in every arm, from the untrained model; means over seeds. Below 0: learned, not lost."
        )
        yield Plan("learning-and-forgetting", "Learning against forgetting", words, learning_and_forgetting, HALF_WIDTH)
    if any(point.forgetting is not None for arm in report.arms for point in arm.learning_rate_curve):
        words = (
            "Every rate that was tried, joined from low to high; filled: the chosen one. What is forgotten depends on "
            "the rate."
        )
        yield Plan("forgetting-by-rate", "Forgetting by learning rate", words, forgetting_by_rate, HALF_WIDTH)
    for view in report.capacity.ranks:
        words = (
            f"Bars: intervals; of arms trained directly all seeds. Dashed: rank {view.top_rank}. Grey: the candidate."
        )
        title = f"Rank and quality of {view.arm}"
        yield Plan(f"ranks-{view.arm}", title, words, partial(rank_chart, view), FULL_WIDTH)
    if _cost_rows(report):
        words = "The further left, the cheaper. Bars: intervals."
        yield Plan("quality-against-cost", "Quality against cost", words, quality_against_cost, HALF_WIDTH)


# --- training


def training_loss(report: Report, canvas: Canvas) -> Any:
    """Training loss by step: the mean over seeds with the range of all seeds."""
    losses: dict[tuple[str, int], list[float]] = {}
    for arm in report.arms:
        for point in (point for curve in arm.learning_curves for point in curve.train):
            losses.setdefault((arm.name, point.step), []).append(point.nll)
    rows = [
        {"arm": arm, "step": step, "low": min(nll), "high": max(nll), "value": sum(nll) / len(nll)}
        for (arm, step), nll in losses.items()
    ]
    shared = _by_step(report, rows)
    title = wording.metric_title("nll", report.study.task)
    band = shared.mark_area(opacity=0.16)
    layers = [
        band.encode(y=_value_axis(title, "low"), y2="high:Q"),
        shared.mark_line(strokeWidth=1.8).encode(y=_value_axis(title)),
    ]
    return styled(alt.layer(*layers), canvas, HEIGHT)


def validation(report: Report, canvas: Canvas) -> Any:
    """The selection metric on valid by step: every seed, their mean, and the checkpoints that were taken."""
    name = _valid_metric(report)
    rows = [
        {
            "arm": arm.name,
            "step": point.step,
            "value": _shown(name, point.nll, point.accuracy),
            "filled": point.step == curve.selected_step,
        }
        for arm in report.arms
        for curve in arm.learning_curves
        for point in curve.valid
    ]
    shared, title = _by_step(report, rows), wording.metric_title(name, report.study.task)
    line = shared.mark_line(strokeWidth=2).encode(y=_value_axis(title, "mean(value)"))
    return styled(alt.layer(line, *_dots(shared.encode(y=_value_axis(title)), size=42)), canvas, HEIGHT)


def learning_rates(report: Report, canvas: Canvas) -> Any:
    """The search: the selection metric on valid by learning rate; rates far worse than the others are arrows."""
    name, rows = _valid_metric(report), _rate_rows(report)
    near = _near(report, rows)
    axis = alt.Axis(values=_log_ticks([row["rate"] for row in rows]), format="~e", grid=False, tickSize=4)
    scale = alt.Scale(type="log", nice=False, padding=14)
    x = alt.X("rate:Q", title="learning rate (logarithmic)", scale=scale, axis=axis)
    y = _value_axis(wording.metric_title(name, report.study.task))
    colour = arm_colour(report, names(rows))

    def marks(some: Sequence[Row]) -> Any:
        return alt.Chart(data(some)).encode(x=x, color=colour)

    curves = marks(near).encode(y=y)
    # rates as accurate as the best count as equal to it, so that a parabola through accuracies says nothing
    searched = () if name == "accuracy" else report.arms
    bent = marks([row for arm in searched for row in parabola(arm, near)]).encode(y=y)
    off = marks([row for row in rows if row["value"] is not None and row not in near])
    lost = marks([row for row in rows if row["value"] is None])
    is_worse_below = METRICS[name].higher_is_better
    edge = alt.value(HEIGHT - 90 if is_worse_below else 8)
    layers = [
        curves.mark_line(strokeWidth=1.6, opacity=0.55),
        bent.mark_line(strokeWidth=2, strokeDash=[4, 3]),
        *_dots(curves, size=70),
        off.mark_text(text="↓" if is_worse_below else "↑", fontSize=18, fontWeight="bold").encode(y=edge),
        lost.mark_text(text="×", fontSize=20, fontWeight="bold").encode(y=edge),
    ]
    return styled(alt.layer(*layers), canvas, HEIGHT)


def _rate_rows(report: Report) -> list[Row]:
    """A row per rate that was tried; `value` is the selection metric on valid, None where it did not finish."""
    name = _valid_metric(report)
    return [
        {
            "arm": arm.name,
            "rate": point.learning_rate,
            "value": _shown(name, point.valid_nll, point.valid_accuracy),
            "forgetting": point.forgetting,
            "filled": point.selected,
        }
        for arm in report.arms
        for point in arm.learning_rate_curve
    ]


def _near(report: Report, rows: Sequence[Row]) -> list[Row]:
    """Rates that are drawn to scale: those not much further from the best than the rates beside the chosen ones."""
    known = [row for row in rows if row["value"] is not None]
    beside = [
        row["value"]
        for arm in report.arms
        for row in known
        if row["arm"] == arm.name and row["rate"] in (arm.learning_rate, *(arm.bracket or ()))
    ]
    reach = FAR * (max(beside) - min(beside)) if beside else 0.0
    if not reach:
        return known
    return [row for row in known if min(beside) - reach <= row["value"] <= max(beside) + reach]


def parabola(arm: ArmView, rows: Sequence[Row]) -> Iterator[Row]:
    """The parabola in log rate through an arm's chosen rate and the two beside it, from the chart's `rows`.

    Nothing where one of the three is missing.
    """
    value = {row["rate"]: row["value"] for row in rows if row["arm"] == arm.name}
    if arm.bracket is None or arm.learning_rate is None:
        return
    rates = (arm.bracket[0], arm.learning_rate, arm.bracket[1])
    if any(value[rate] is None for rate in rates):
        return
    places = np.log(np.array(rates) / arm.learning_rate)
    bend = np.polyfit(places, [value[rate] for rate in rates], 2)
    for place in np.linspace(places[0], places[-1], PARABOLA_POINTS):
        yield {"arm": arm.name, "rate": arm.learning_rate * math.exp(place), "value": float(np.polyval(bend, place))}


def learning_and_forgetting(report: Report, canvas: Canvas) -> Any:
    """Change of the loss on general text against the loss on valid, along the training of each arm."""
    rows: list[Row] = [
        {"arm": arm.name, "step": p.step, "valid": p.valid_nll, "value": p.change, "filled": p.step == last.step}
        for arm in report.arms
        if arm.forgetting_curve
        for last in arm.forgetting_curve[-1:]
        for p in arm.forgetting_curve
    ]
    x = alt.X("valid:Q", title=VALID_LOSS, axis=alt.Axis(tickCount=5, grid=False, tickSize=4), scale=FALLING)
    shared = alt.Chart(data(rows)).encode(x=x, y=_value_axis(FORGETTING), order="step:Q")
    shared = shared.encode(color=arm_colour(report, names(rows)))
    return styled(alt.layer(shared.mark_line(strokeWidth=2), *_dots(shared, size=42)), canvas, HEIGHT)


def forgetting_by_rate(report: Report, canvas: Canvas) -> Any:
    """Change of the loss on general text against the loss on valid, of every rate that was tried, joined by rate."""
    rows = [row for row in _near(report, _rate_rows(report)) if row["forgetting"] is not None]
    x = alt.X("value:Q", title=VALID_LOSS, axis=alt.Axis(tickCount=5, grid=False, tickSize=4), scale=FALLING)
    shared = alt.Chart(data(rows)).encode(x=x, y=_value_axis(FORGETTING, "forgetting"), order="rate:Q")
    shared = shared.encode(color=arm_colour(report, names(rows)))
    return styled(alt.layer(shared.mark_line(strokeWidth=1.6, opacity=0.55), *_dots(shared, size=70)), canvas, HEIGHT)


def _valid_metric(report: Report) -> str:
    return TASKS[report.study.task].selection_metric


def _shown(metric: str, nll: float | None, accuracy: float | None) -> float | None:
    value = accuracy if metric == "accuracy" else nll
    return None if value is None else value * METRICS[metric].scale


def _log_ticks(values: Sequence[float]) -> list[float]:
    """1 and 3 times the powers of ten inside the range of `values`; the values themselves where these are too few."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in (1, 3)]
    inside = [tick for tick in ticks if min(values) * 0.99 <= tick <= max(values) * 1.01]
    return inside if len(inside) > 1 else sorted(set(values))


# --- cost


def quality_against_cost(report: Report, canvas: Canvas) -> Any:
    """Share of full's gain that each arm keeps (or the metric itself), against the cost that tells arms apart best."""
    rows = _cost_rows(report)
    metric = report.study.primary_metric
    title = "share of full's gain kept (%)" if _shows_gain(report) else wording.metric_title(metric, report.study.task)
    shared = alt.Chart(data(rows)).encode(x=_cost_axis(report, rows), color=arm_colour(report, names(rows)))
    points = shared.encode(y=_value_axis(title))
    bars = shared.mark_rule(strokeWidth=6, strokeCap="round", opacity=0.4)
    layers = [
        bars.encode(y=_value_axis(title, "low"), y2="high:Q"),
        points.mark_circle(size=110, opacity=1, stroke=SURFACE, strokeWidth=1.5),
    ]
    if _shows_gain(report):
        whole = alt.Chart(data([{"value": 100.0}])).mark_rule(stroke=AXIS, strokeDash=[4, 3])
        layers.insert(0, whole.encode(y="value:Q"))
    return styled(alt.layer(*layers), canvas, HEIGHT)


def _charted_cost(report: Report) -> str | None:
    return frontier.telling_cost({arm.name: arm.cost for arm in report.tuned_arms()})


def _cost_rows(report: Report) -> list[Row]:
    """One row per arm whose cost and quality are both known."""
    name = _charted_cost(report)
    if name is None:
        return []
    unit = 1.0 if name == "train_seconds" else 2.0**20
    # the reference of gain keeps nothing of it, and would only press the others together
    known = [a for a in report.tuned_arms() if getattr(a, name) and a.metrics and a.name != report.study.reference_arm]
    costs = [getattr(arm, name) / unit for arm in known]
    rows = [{"arm": arm.name, "cost": cost, **_quality(report, arm)} for arm, cost in zip(known, costs, strict=True)]
    return [row for row in rows if row["value"] is not None]


def _shows_gain(report: Report) -> bool:
    return bool(report.verdicts) and all(verdict.gain_kept for verdict in report.verdicts)


def _quality(report: Report, arm: ArmView) -> Row:
    """The arm's quality with the ends of its interval, as it is drawn."""
    if not _shows_gain(report):
        found, scale = arm.metrics[report.study.primary_metric], METRICS[report.study.primary_metric].scale
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
    axis = alt.Axis(values=_log_ticks(costs), format=".3~g", grid=False, tickSize=4)
    scale = alt.Scale(type="log", nice=False, padding=30)
    return alt.X("cost:Q", title=f"{title}, logarithmic", scale=scale, axis=axis)


# --- parts of charts


def _by_step(report: Report, rows: Sequence[Row]) -> Any:
    """A chart over optimizer steps, from 0 on."""
    scale, axis = alt.Scale(zero=True, nice=False), alt.Axis(tickCount=5, grid=False, tickSize=4)
    x = alt.X("step:Q", title="optimizer step", axis=axis, scale=scale)
    return alt.Chart(data(rows)).encode(x=x, color=arm_colour(report, names(rows)))


def _value_axis(title: str, field: str = "value") -> Any:
    return alt.Y(f"{field}:Q", title=title, axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=False, padding=12))


def _dots(shared: Any, size: int) -> list[Any]:
    """Hollow dots, and larger filled ones where the row is `filled`."""
    hollow = shared.mark_point(size=size, fill=SURFACE, strokeWidth=1.6, opacity=1)
    return [hollow, shared.transform_filter("datum.filled").mark_point(size=size * 1.5, filled=True, opacity=1)]
