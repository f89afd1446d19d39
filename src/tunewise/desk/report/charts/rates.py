"""Charts over the learning rate: loss, forgetting and the fitted parabola."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import wording
from tunewise.desk.report.charts.axes import (
    FALLING,
    FORGETTING,
    HEIGHT,
    VALID_LOSS,
    dots,
    log_ticks,
    shown_value,
    valid_metric,
    value_axis,
)
from tunewise.desk.report.charts.canvas import Canvas, Row, arm_colour, data, names, styled
from tunewise.desk.report.views.view import ArmView, Report

PARABOLA_POINTS = 25


FAR = 3.0  # spreads of the bracketing rates; worse rates beyond become arrows


def learning_rates(report: Report, canvas: Canvas) -> Any:
    """The selection metric on the validation set by learning rate; rates far worse than the others are arrows."""
    name, rows = valid_metric(report), _rate_rows(report)
    near = _near(report, rows)
    axis = alt.Axis(values=log_ticks([row["rate"] for row in rows]), format="~e", grid=False, tickSize=4)
    scale = alt.Scale(type="log", nice=False, padding=14)
    x = alt.X("rate:Q", title="learning rate (logarithmic)", scale=scale, axis=axis)
    y = value_axis(wording.metric_title(name, report.study.task))
    colour = arm_colour(report, names(rows))

    def marks(some: Sequence[Row]) -> Any:
        return alt.Chart(data(some)).encode(x=x, color=colour)

    curves = marks(near).encode(y=y)
    # shares of right rows often tie, so that a parabola through them is not informative
    searched = report.arms if name == "nll" else ()
    bent = marks([row for arm in searched for row in parabola(arm, near)]).encode(y=y)
    untried = marks([row for arm in searched for row in lowest_point(arm, near)]).encode(y=y)
    off = marks([row for row in rows if row["value"] is not None and row not in near])
    lost = marks([row for row in rows if row["value"] is None])
    is_worse_below = metric_named(name).higher_is_better
    edge = alt.value(HEIGHT - 90 if is_worse_below else 8)
    layers = [
        curves.mark_line(strokeWidth=1.6, opacity=0.55),
        bent.mark_line(strokeWidth=2, strokeDash=[4, 3]),
        *dots(curves, size=70),
        untried.mark_point(shape="diamond", size=70, filled=True, opacity=1),
        off.mark_text(text="↓" if is_worse_below else "↑", fontSize=18, fontWeight="bold").encode(y=edge),
        lost.mark_text(text="×", fontSize=20, fontWeight="bold").encode(y=edge),
    ]
    return styled(alt.layer(*layers), canvas, HEIGHT)


def _rate_rows(report: Report) -> list[Row]:
    """A row per rate tried; `value` is the selection metric on the validation set, None if the run did not finish."""
    name = valid_metric(report)
    return [
        {
            "arm": arm.name,
            "rate": point.learning_rate,
            "value": shown_value(name, point.valid_nll, point.valid_accuracy),
            "forgetting": point.forgetting,
            "filled": point.selected,
        }
        for arm in report.arms
        for point in arm.learning_rate_curve
    ]


def _near(report: Report, rows: Sequence[Row]) -> list[Row]:
    """Rates that are drawn to scale: those not much further from the best than the neighbors of the chosen ones."""
    known = [row for row in rows if row["value"] is not None]
    beside = [
        row["value"]
        for arm in report.arms
        for row in known
        if row["arm"] == arm.name and arm.bracket and arm.bracket[0] <= row["rate"] <= arm.bracket[1]
    ]
    reach = FAR * (max(beside) - min(beside)) if beside else 0.0
    if not reach:
        return known
    return [row for row in known if min(beside) - reach <= row["value"] <= max(beside) + reach]


def parabola(arm: ArmView, rows: Sequence[Row]) -> Iterator[Row]:
    """The parabola in log rate through an arm's best rate tried and its two neighbors, from the chart's `rows`.

    Nothing if one of the three is missing.
    """
    if bend := _bend(arm, rows):
        for rate in np.geomspace(bend.rates[0], bend.rates[-1], PARABOLA_POINTS):
            yield {"arm": arm.name, "rate": float(rate), "value": bend.at(rate)}


def lowest_point(arm: ArmView, rows: Sequence[Row]) -> Iterator[Row]:
    """The confirmed rate on the parabola, if no trial had it."""
    rate = arm.learning_rate
    is_tried = any(point.selected for point in arm.learning_rate_curve)
    if rate is not None and not is_tried and (bend := _bend(arm, rows)):
        yield {"arm": arm.name, "rate": rate, "value": bend.at(rate)}


class _Bend(NamedTuple):
    """A parabola in log rate."""

    rates: list[float]  # that it goes through
    coefficients: Any  # (3,)

    def at(self, rate: float) -> float:
        return float(np.polyval(self.coefficients, math.log(rate)))


def _bend(arm: ArmView, rows: Sequence[Row]) -> _Bend | None:
    if arm.bracket is None:
        return None
    value = {row["rate"]: row["value"] for row in rows if row["arm"] == arm.name}
    # neighbors: one rate is between them, the best
    rates = [rate for rate in sorted(value) if arm.bracket[0] <= rate <= arm.bracket[1]]
    if len(rates) != 3 or any(value[rate] is None for rate in rates):
        return None
    return _Bend(rates, np.polyfit(np.log(rates), [value[rate] for rate in rates], 2))


def forgetting_by_rate(report: Report, canvas: Canvas) -> Any:
    """Change of the loss on general text vs. validation loss for every rate tried, joined by rate."""
    rows = [row for row in _near(report, _rate_rows(report)) if row["forgetting"] is not None]
    x = alt.X("value:Q", title=VALID_LOSS, axis=alt.Axis(tickCount=5, grid=False, tickSize=4), scale=FALLING)
    shared = alt.Chart(data(rows)).encode(x=x, y=value_axis(FORGETTING, "forgetting"), order="rate:Q")
    shared = shared.encode(color=arm_colour(report, names(rows)))
    return styled(alt.layer(shared.mark_line(strokeWidth=1.6, opacity=0.55), *dots(shared, size=70)), canvas, HEIGHT)
