"""judge.html: a single page that loads nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tunewise.desk.judge.view import JudgedVerdict, JudgeReport
from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import wording
from tunewise.desk.report.pages.templates import environment

ROOM = 0.08  # of the range, on both sides of a figure


class Figure(NamedTuple):
    """Places of one interval in percent of the width; a metric's verdicts share their scale."""

    low: float
    width: float
    dot: float
    zero: float
    margin: float | None


def judge_page(report: JudgeReport) -> str:
    """The HTML page. All text from logs is escaped, and its control characters are replaced."""
    template = environment(Path(__file__).parent).get_template("judge.html.j2")
    cards = [(verdict, figure_of(verdict, report.verdicts)) for verdict in report.at_gate()]
    return template.render(report=report, words=wording, metric_named=metric_named, cards=cards, curve=curve_of)


def curve_of(losses: Sequence[tuple[int, float]]) -> str:
    """The points of a loss curve in a picture of 300 by 60, by step."""
    steps, values = zip(*losses, strict=True)
    across, up = max(steps) - min(steps) or 1, max(values) - min(values) or 1.0
    places = ((300 * (step - min(steps)) / across, 58 - 56 * (value - min(values)) / up) for step, value in losses)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def figure_of(verdict: JudgedVerdict, verdicts: Sequence[JudgedVerdict]) -> Figure | None:
    """Where to draw an interval; None: there is none."""
    if verdict.low is None or verdict.high is None:
        return None
    of_metric = [of for of in verdicts if of.metric == verdict.metric]
    ends = [end for of in of_metric for end in (of.low, of.high, 0.0, _margin(of)) if end is not None]
    room = ROOM * (max(ends) - min(ends))
    least, span = min(ends) - room, max(ends) - min(ends) + 2 * room

    def place(value: float) -> float:
        return round(100 * (value - least) / span, 2)

    margin, low = _margin(verdict), place(verdict.low)
    return Figure(
        low=low,
        width=round(place(verdict.high) - low, 2),
        dot=place(verdict.difference),
        zero=place(0.0),
        margin=None if margin is None else place(margin),
    )


def _margin(verdict: JudgedVerdict) -> float | None:
    """The margin on the side of a quality loss."""
    if verdict.margin_absolute is None:
        return None
    return verdict.margin_absolute * (-1 if metric_named(verdict.metric).higher_is_better else 1)
