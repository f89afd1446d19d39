"""List the studies under a folder from their stored reports; 500 of them take about a second."""

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

_SHOWN = {"undecided": "inconclusive"}  # as wording.OUTCOMES, whose import takes longer than the listing


def print_listing(root: Path, console: Console) -> None:
    """Print name, model, arms and outcomes of every study. Raises StudyError if there is none."""
    folders = find_studies(root)
    if not folders:
        raise StudyError(
            f"no studies under {root}. Run `tunewise quickstart` to create one, or `tunewise list DIR` to look "
            "elsewhere."
        )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("study", "model", "task", "arms", "outcomes vs. full"):
        table.add_column(name, overflow="fold")
    for folder in folders:
        table.add_row(*map(Text, (str(folder), *_cells(folder))))
    print_table(table, console)


def _cells(folder: Path) -> tuple[str, str, str, str]:
    path = folder / REPORT
    if is_there(folder / "sets.json"):
        return "-", "several sets", "-", f"see `tunewise report {folder}`"
    if not is_there(path):
        return "-", "-", "-", "no report yet: run the study's command again"
    try:
        report = read_report(path) or {}
        arms = ", ".join(arm["name"] for arm in report["arms"])
        outcomes = "; ".join(f"{v['arm']}: {_SHOWN.get(v['outcome'], v['outcome'])}" for v in report["verdicts"])
        return str(report["study"]["model"]), str(report["study"]["task"]), arms, outcomes or "-"
    except (ValueError, KeyError, TypeError):
        return "-", "-", "-", f"damaged report: run `tunewise report {folder}` to rewrite it"
