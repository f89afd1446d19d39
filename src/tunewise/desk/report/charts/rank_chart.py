"""Quality by rank: one adapter truncated to every rank, and adapters trained directly."""

from typing import Any

import altair as alt

from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import wording
from tunewise.desk.report.charts.canvas import AXIS, INK, MUTED, PALETTE, SURFACE, Canvas, Row, data, styled
from tunewise.desk.report.views.capacity_view import RankView
from tunewise.desk.report.views.view import Report

HEIGHT = 320
KINDS = ("truncated", "truncated, spread", "trained directly")
COLOURS = (PALETTE[0], MUTED, PALETTE[1])


def rank_chart(view: RankView, report: Report, canvas: Canvas) -> Any:
    """The curve of one arm on the validation set; dashed: the untruncated adapter, gray rule: the candidate."""
    scale = metric_named(view.metric).scale
    rows = [*_truncated(view), *_direct(view)]
    for row in rows:
        row |= {key: row[key] * scale for key in ("value", "low", "high") if row[key] is not None}
    ranks = sorted({row["rank"] for row in rows})
    axis = alt.Axis(values=ranks, grid=False, tickSize=4)
    x = alt.X(
        "rank:Q", title="rank (logarithmic)", scale=alt.Scale(type="log", base=2, nice=False, padding=16), axis=axis
    )
    domain = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=domain, range=[COLOURS[KINDS.index(kind)] for kind in domain]),
    )
    title = f"{wording.metric_title(view.metric, report.study.task)} on the validation set"

    def y(field: str) -> Any:
        return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))

    def marks(kinds: tuple[str, ...]) -> Any:
        return alt.Chart(data([row for row in rows if row["kind"] in kinds])).encode(x=x, color=colour)

    cut, direct = marks(KINDS[:2]), marks(KINDS[2:])
    layers = [
        alt.Chart(data([{"rank": view.candidate}])).mark_rule(stroke=AXIS, strokeWidth=6, opacity=0.5).encode(x=x),
        alt.Chart(data([{"value": view.whole * scale}])).mark_rule(stroke=AXIS, strokeDash=[4, 3]).encode(y=y("value")),
        cut.mark_line(strokeWidth=1.6, opacity=0.6).encode(y=y("value")),
        cut.mark_rule(strokeWidth=3, opacity=0.45).encode(y=y("low"), y2="high:Q"),
        cut.mark_circle(size=60, opacity=1, stroke=SURFACE, strokeWidth=1).encode(y=y("value")),
        direct.mark_rule(strokeWidth=3, opacity=0.45).encode(y=y("low"), y2="high:Q"),
        direct.mark_point(shape="diamond", size=110, filled=True, opacity=1, stroke=INK, strokeWidth=0.5).encode(
            y=y("value")
        ),
    ]
    return styled(alt.layer(*layers), canvas, HEIGHT)


def _truncated(view: RankView) -> list[Row]:
    """Truncations with their paired interval, relative to the untruncated adapter."""
    rows = []
    for point in view.points:
        ends = (point.difference.low, point.difference.high) if point.difference else (None, None)
        low, high = (None if end is None else view.whole + end for end in ends)
        kind = KINDS[1] if point.spread else KINDS[0]
        rows.append({"kind": kind, "rank": point.rank, "value": point.value, "low": low, "high": high})
    return rows


def _direct(view: RankView) -> list[Row]:
    return [
        {"kind": KINDS[2], "rank": point.rank, "value": point.value, "low": point.low, "high": point.high}
        for point in view.direct
        if point.value is not None
    ]
