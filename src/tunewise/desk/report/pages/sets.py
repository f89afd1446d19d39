"""Write sets.json and sets.html, a single page that loads nothing and links to the report of each set."""

from pathlib import Path

from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import wording
from tunewise.desk.report.compose.sets import build_sets_report
from tunewise.desk.report.pages.templates import environment
from tunewise.desk.report.views.sets_view import SetsReport
from tunewise.storage.disk import write_atomically
from tunewise.storage.ledger import Ledger


def write_sets_report(ledger: Ledger) -> SetsReport:
    """Write the report on all sets of a study folder, and return it. Raises StudyError if a set is damaged."""
    report = build_sets_report(ledger)
    write_atomically(ledger.folder / "sets.json", report.model_dump_json(indent=1))
    write_atomically(ledger.folder / "sets.html", sets_page(report))
    return report


def sets_page(report: SetsReport) -> str:
    """The HTML page. All text from study, data and models is escaped."""
    template = environment(Path(__file__).parent).get_template("sets.html.j2")
    return template.render(report=report, words=wording, metric_named=metric_named)
