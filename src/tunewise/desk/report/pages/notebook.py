"""The report as a notebook shows it: headline, verdicts with their intervals, and the main charts."""

from pathlib import Path

from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import wording
from tunewise.desk.report.charts.canvas import colours
from tunewise.desk.report.charts.charts import figures
from tunewise.desk.report.pages.html import BADGES, inline
from tunewise.desk.report.pages.templates import environment
from tunewise.desk.report.views.view import Report

TEMPLATE = "notebook.html.j2"
SHOWN = ("difference-to-full", "learning-rates", "quality-against-cost")  # the page has all charts


def to_notebook(report: Report, folder: str) -> str:
    """HTML for the output of a cell, without scripts. All text from study, data and models is escaped."""
    drawn = {figure.name: figure for figure in figures(report)}
    return (
        environment(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            report=report,
            folder=folder,
            badges=BADGES,
            words=wording,
            colours=colours(report),
            metric_named=metric_named,
            figures=[inline(drawn[name]) for name in SHOWN if name in drawn],
        )
    )
