"""Axes, scales and marks that several charts share."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report.charts.canvas import SURFACE, Row, arm_colour, data, names
from tunewise.desk.report.views.view import Report

HEIGHT = 310


VALID_LOSS = "validation loss (nats per token), better to the right"


FORGETTING = "forgetting (nats per token)"


FALLING = alt.Scale(zero=False, nice=False, padding=14, reverse=True)


def valid_metric(report: Report) -> str:
    """The validation metric used for selection, which the charts of trials show."""
    return report.study.selection_metric


def shown_value(metric: str, nll: float | None, accuracy: float | None) -> float | None:
    """The value of that metric in display units; None: not measured."""
    value = nll if metric == "nll" else accuracy
    return None if value is None else value * metric_named(metric).scale


def log_ticks(values: Sequence[float]) -> list[float]:
    """1 and 3 times powers of ten within the range of `values`; the values themselves if these are too few."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in (1, 3)]
    inside = [tick for tick in ticks if min(values) * 0.99 <= tick <= max(values) * 1.01]
    return inside if len(inside) > 1 else sorted(set(values))


def by_step(report: Report, rows: Sequence[Row]) -> Any:
    """A chart over optimizer steps, starting at 0."""
    scale, axis = alt.Scale(zero=True, nice=False), alt.Axis(tickCount=5, grid=False, tickSize=4)
    x = alt.X("step:Q", title="optimizer step", axis=axis, scale=scale)
    return alt.Chart(data(rows)).encode(x=x, color=arm_colour(report, names(rows)))


def value_axis(title: str, field: str = "value") -> Any:
    """A value axis that does not start at 0."""
    return alt.Y(f"{field}:Q", title=title, axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=False, padding=12))


def dots(shared: Any, size: int) -> list[Any]:
    """Hollow dots, and larger filled ones for rows that are `filled`."""
    hollow = shared.mark_point(size=size, fill=SURFACE, strokeWidth=1.6, opacity=1)
    return [hollow, shared.transform_filter("datum.filled").mark_point(size=size * 1.5, filled=True, opacity=1)]
