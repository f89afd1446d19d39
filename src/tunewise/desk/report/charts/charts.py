"""The report's charts, drawn with Altair as SVG at two widths, from the view only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import altair as alt

from tunewise.desk.report import wording
from tunewise.desk.report.charts.axes import (
    FALLING,
    FORGETTING,
    HEIGHT,
    VALID_LOSS,
    by_step,
    dots,
    shown_value,
    valid_metric,
    value_axis,
)
from tunewise.desk.report.charts.canvas import (
    FULL_WIDTH,
    HALF_WIDTH,
    PHONE,
    Canvas,
    Row,
    arm_colour,
    data,
    names,
    styled,
    to_svg,
)
from tunewise.desk.report.charts.cost import cost_rows, quality_against_cost
from tunewise.desk.report.charts.forest import forest
from tunewise.desk.report.charts.rank_chart import rank_chart
from tunewise.desk.report.charts.rates import forgetting_by_rate, learning_rates
from tunewise.desk.report.views.view import Report


@dataclass(frozen=True)
class Plan:
    """A chart that the report has data for, not yet drawn."""

    name: str  # of its file in figures/
    title: str
    caption: str
    paint: Callable[[Report, Canvas], Any]
    canvas: Canvas


@dataclass(frozen=True)
class Figure:
    """One chart at two widths, with title and caption."""

    name: str
    title: str
    caption: str
    wide: str  # SVG
    narrow: str  # SVG for a phone, with readable text


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
        words = "Bar: interval for new seeds and new data. Large dot: mean. Small dots: seeds. Arrow: off the scale."
        yield Plan("difference-to-full", "Difference from full fine-tuning", words, forest, FULL_WIDTH)
    if any(curve.train for arm in report.arms for curve in arm.learning_curves):
        words = "Line: mean over seeds. Band: range of all seeds."
        if any(arm.learning_curves and arm.learning_rate is None for arm in report.arms):
            words += " Arms trained elsewhere: as their trainers logged it."
        yield Plan("training-loss", "Training loss", words, training_loss, HALF_WIDTH)
    if any(curve.valid for arm in report.arms for curve in arm.learning_curves):
        words = "Line: mean over seeds. Dots: seeds, filled at the selected checkpoint."
        yield Plan("validation", "Validation during training", words, validation, HALF_WIDTH)
    if any(point.valid_nll is not None for arm in report.arms for point in arm.learning_rate_curve):
        dashed = "Dashed: parabola through the best rate and its neighbors. Diamond: chosen at its lowest point. "
        words = f"Filled: chosen rate. {dashed if valid_metric(report) == 'nll' else ''}Arrow: off the scale. "
        words += "×: run did not finish."
        yield Plan("learning-rates", "Learning rates tried", words, learning_rates, HALF_WIDTH)
    if any(arm.forgetting_curve for arm in report.arms):
        words = "Same steps in every arm, starting from the untrained model; means over seeds. Below 0: improved."
        yield Plan("learning-and-forgetting", "Learning vs. forgetting", words, learning_and_forgetting, HALF_WIDTH)
    if any(point.forgetting is not None for arm in report.arms for point in arm.learning_rate_curve):
        words = "Every rate tried, joined from low to high. Filled: chosen rate. Forgetting depends on the rate."
        yield Plan("forgetting-by-rate", "Forgetting by learning rate", words, forgetting_by_rate, HALF_WIDTH)
    for view in report.capacity.ranks:
        words = (
            f"Bars: intervals, or all seeds of directly trained arms. Dashed: rank {view.top_rank}. Gray: candidate."
        )
        title = f"Rank and quality of {view.arm}"
        yield Plan(f"ranks-{view.arm}", title, words, partial(rank_chart, view), FULL_WIDTH)
    if cost_rows(report):
        words = "Further left is cheaper. Bars: confidence intervals."
        yield Plan("quality-against-cost", "Quality vs. cost", words, quality_against_cost, HALF_WIDTH)


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
    shared = by_step(report, rows)
    title = wording.metric_title("nll", report.study.task)
    band = shared.mark_area(opacity=0.16)
    layers = [
        band.encode(y=value_axis(title, "low"), y2="high:Q"),
        shared.mark_line(strokeWidth=1.8).encode(y=value_axis(title)),
    ]
    return styled(alt.layer(*layers), canvas, HEIGHT)


def validation(report: Report, canvas: Canvas) -> Any:
    """The selection metric on the validation set by step: every seed, the mean, and the selected checkpoints."""
    name = valid_metric(report)
    rows = [
        {
            "arm": arm.name,
            "step": point.step,
            "value": shown_value(name, point.nll, point.accuracy),
            "filled": point.step == curve.selected_step,
        }
        for arm in report.arms
        for curve in arm.learning_curves
        for point in curve.valid
    ]
    shared, title = by_step(report, rows), wording.metric_title(name, report.study.task)
    line = shared.mark_line(strokeWidth=2).encode(y=value_axis(title, "mean(value)"))
    return styled(alt.layer(line, *dots(shared.encode(y=value_axis(title)), size=42)), canvas, HEIGHT)


def learning_and_forgetting(report: Report, canvas: Canvas) -> Any:
    """Change of the loss on general text vs. validation loss during the training of each arm."""
    rows: list[Row] = [
        {"arm": arm.name, "step": p.step, "valid": p.valid_nll, "value": p.change, "filled": p.step == last.step}
        for arm in report.arms
        if arm.forgetting_curve
        for last in arm.forgetting_curve[-1:]
        for p in arm.forgetting_curve
    ]
    x = alt.X("valid:Q", title=VALID_LOSS, axis=alt.Axis(tickCount=5, grid=False, tickSize=4), scale=FALLING)
    shared = alt.Chart(data(rows)).encode(x=x, y=value_axis(FORGETTING), order="step:Q")
    shared = shared.encode(color=arm_colour(report, names(rows)))
    return styled(alt.layer(shared.mark_line(strokeWidth=2), *dots(shared, size=42)), canvas, HEIGHT)


# --- cost


# --- parts of charts
