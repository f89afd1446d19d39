"""The studies below a folder, a line each."""

from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.desk.report.stored import REPORT, read_report
from tunewise.disk import is_there
from tunewise.errors import StudyError
from tunewise.ledger import find_studies


def print_listing(root: Path, console: Console) -> None:
    """Print name, model, arms and outcomes of every study. Raises StudyError where there is none."""
    folders = find_studies(root)
    if not folders:
        raise StudyError(
            f"no studies below {root}. `tunewise quickstart` makes one; `tunewise list DIR` looks elsewhere."
        )
    table = Table("study", "model", "task", "arms", "outcomes against full")
    for folder in folders:
        table.add_row(*map(Text, (str(folder), *_cells(folder))))
    console.print(table)


def _cells(folder: Path) -> tuple[str, str, str, str]:
    path = folder / REPORT
    if not is_there(path):
        return "-", "-", "-", "no report yet: run the same command again"
    try:
        report = read_report(path)
    except ValidationError:  # of another version
        report = None
    if report is None:
        return "-", "-", "-", f"a damaged report: `tunewise report {folder}` writes it again"
    outcomes = "; ".join(f"{verdict.arm}: {verdict.outcome}" for verdict in report.verdicts)
    arms = ", ".join(arm.name for arm in report.arms)
    return report.study.model, report.study.task, arms, outcomes or "-"
