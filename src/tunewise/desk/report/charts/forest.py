"""The forest plot: every arm's difference from full with its interval, zero and the margin."""

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import wording
from tunewise.desk.report.charts.canvas import INK, MUTED, PHONE, SURFACE, Canvas, Row, arm_colour, data, names, styled
from tunewise.desk.report.views.view import Report, VerdictView

FAR = 5.0  # margins from zero; arms beyond become arrows if another arm is nearer


def forest(report: Report, canvas: Canvas) -> Any:
    """The chart; arms so far off that they would compress the scale are arrows at the edge."""
    rows = [_row(verdict) for verdict in report.verdicts if verdict.low is not None]
    lines = _lines(report)
    near = _near(rows, lines)
    seeds = [row for verdict in report.verdicts for row in _seed_rows(verdict) if row["arm"] in near]
    low, high = _reach([row for row in rows if row["arm"] in near], seeds, lines)
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    title = _axis_title(report)
    x = alt.X("value:Q", title=title, axis=alt.Axis(tickCount=5), scale=scale)
    y = alt.Y("arm:N", sort=names(rows), title=None, axis=_name_axis(canvas))
    colour = arm_colour(report, names(rows), legend=None)
    bars = alt.Chart(data([row for row in rows if row["arm"] in near])).encode(y=y, color=colour)
    dots = alt.Chart(data(seeds)).encode(x=x, y=y, color=colour)
    arrows = alt.Chart(data([_arrow(row, low, high) for row in rows if row["arm"] not in near]))
    layers = [
        *_line_layers(lines),
        bars.mark_rule(strokeWidth=8, strokeCap="round", opacity=0.4).encode(
            x=alt.X("low:Q", title=title), x2="high:Q"
        ),
        dots.mark_circle(size=24, opacity=0.8, yOffset=15),
        bars.mark_circle(size=130, opacity=1, stroke=SURFACE, strokeWidth=1.5).encode(x=x),
        arrows.mark_text(fontSize=22).encode(x=x, y=y, color=colour, text="arrow:N"),
    ]
    height = 84 + 62 * len(rows)
    if canvas is PHONE:  # no room for numbers; the table has them
        return styled(alt.layer(*layers), canvas, height)
    numbers = alt.Chart(data(rows)).encode(y=y, x=alt.value("width"), text="words:N")
    return styled(alt.layer(*layers, numbers.mark_text(align="left", dx=18, color=INK)), canvas, height)


def _row(verdict: VerdictView) -> Row:
    scale, low, high = metric_named(verdict.metric).scale, verdict.low, verdict.high
    assert low is not None, "drawn only where there is an interval"
    assert high is not None, "an interval has both ends"
    interval = wording.signed_interval(verdict.metric, verdict)
    return {
        "arm": verdict.arm,
        "value": verdict.difference * scale,
        "low": low * scale,
        "high": high * scale,
        "words": f"{wording.difference(verdict.metric, verdict.difference)}  ({interval})",
    }


def _arrow(row: Row, low: float, high: float) -> Row:
    """A row that is off the scale, as an arrow at the edge."""
    is_left = row["value"] < low
    return {**row, "value": low if is_left else high, "arrow": "←" if is_left else "→"}


def _seed_rows(verdict: VerdictView) -> Iterator[Row]:
    scale = metric_named(verdict.metric).scale
    return ({"arm": verdict.arm, "value": difference * scale} for difference in verdict.seed_differences)


def _lines(report: Report) -> list[Row]:
    """Lines at zero and at the margin."""
    zero: Row = {"value": 0.0, "label": "full", "dash": [1, 0]}
    margin = _margin_line(report)
    return [zero] if margin is None else [zero, {"value": margin, "label": "margin", "dash": [4, 3]}]


def _margin_line(report: Report) -> float | None:
    """The smaller part of the margin (a share of the gain as estimated), on the side of a quality loss."""
    verdict = report.verdicts[0]
    metric, share = metric_named(verdict.metric), verdict.margin_share_of_gain
    parts = [verdict.margin_absolute, share * verdict.gain.estimate if share else None]
    known = [part for part in parts if part is not None and part > 0]
    return min(known) * metric.scale * (-1 if metric.higher_is_better else 1) if known else None


def _near(rows: Sequence[Row], lines: Sequence[Row]) -> list[str]:
    """Arms that are drawn to scale: those within FAR margins, or all if there are none."""
    near = [row["arm"] for row in rows if abs(row["value"]) <= FAR * abs(lines[-1]["value"])]
    return near or names(rows)


def _reach(*groups: Sequence[Row]) -> tuple[float, float]:
    """The range of everything drawn, with padding on both sides."""
    ends = [row[key] for rows in groups for row in rows for key in ("low", "value", "high") if key in row]
    room = 0.12 * (max(ends) - min(ends))
    return min(ends) - room, max(ends) + room


def _axis_title(report: Report) -> list[str]:
    metric = metric_named(report.study.primary_metric)
    left, right = ("worse", "better") if metric.higher_is_better else ("better", "worse")
    return [f"← {left} than full  ·  {right} than full →", f"{metric.label}, {metric.difference_unit}"]


def _name_axis(canvas: Canvas) -> Any:
    return alt.Axis(domain=False, ticks=False, labelPadding=14, labelFontSize=canvas.font_size + 1, labelColor=INK)


def _line_layers(lines: Sequence[Row]) -> list[Any]:
    """The lines, with labels on their outer sides so that they never overlap."""
    rightmost = max(lines, key=lambda line: line["value"])
    layers = []
    for line in lines:
        at = alt.Chart(data([line])).encode(x="value:Q")
        align, dx = ("left", 1) if line is rightmost else ("right", -1)
        name = at.mark_text(color=MUTED, align=align, dx=dx, dy=-7, baseline="bottom")
        layers += [at.mark_rule(stroke=MUTED, strokeWidth=1.2, strokeDash=line["dash"])]
        layers += [name.encode(text="label:N", y=alt.value(0))]
    return layers
