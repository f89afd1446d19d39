"""The studies below a folder, a line each, from what their reports left for it: 500 of them are listed in a second."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.desk.report.stored import REPORT, read_report
from tunewise.desk.report.terminal.tables import print_table
from tunewise.errors import StudyError
from tunewise.storage.files import is_there
from tunewise.storage.ledger import find_studies


def print_listing(root: Path, console: Console) -> None:
    """Print name, model, arms and outcomes of every study. Raises StudyError where there is none."""
    folders = find_studies(root)
    if not folders:
        raise StudyError(
            f"no studies below {root}. `tunewise quickstart` makes one; `tunewise list DIR` looks elsewhere."
        )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("study", "model", "task", "arms", "outcomes against full"):
        table.add_column(name, overflow="fold")
    for folder in folders:
        table.add_row(*map(Text, (str(folder), *_cells(folder))))
    print_table(table, console)


def _cells(folder: Path) -> tuple[str, str, str, str]:
    path = folder / REPORT
    if not is_there(path):
        return "-", "-", "-", "no report yet: run the same command again"
    try:
        report = read_report(path) or {}
        arms = ", ".join(arm["name"] for arm in report["arms"])
        outcomes = "; ".join(f"{verdict['arm']}: {verdict['outcome']}" for verdict in report["verdicts"])
        return str(report["study"]["model"]), str(report["study"]["task"]), arms, outcomes or "-"
    except (ValueError, KeyError, TypeError):
        return "-", "-", "-", f"a damaged report: `tunewise report {folder}` writes it again"
