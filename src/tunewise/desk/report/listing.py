"""The studies below a folder, a line each, from what their reports left for it: 500 of them are listed in a second."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.desk.report.tables import print_table
from tunewise.disk import file_hash, is_there, read_text
from tunewise.errors import StudyError
from tunewise.ledger import find_studies, sealed, unsealed

if TYPE_CHECKING:  # the report's own types need the statistics, which take longer to import than the list to print
    from tunewise.desk.report.view import Report

SUMMARY = "summary.json"  # beside report.json; holds a hash of itself


def summary_text(report: "Report", written: str) -> str:
    """What the list shows of a study, sealed, with the hash of report.json as it was `written`."""
    found = _summary(json.loads(report.model_dump_json(include={"study", "verdicts", "arms"})))
    return sealed({**found, "report": hashlib.sha256(written.encode()).hexdigest()})


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": report["study"]["model"],
        "task": report["study"]["task"],
        "arms": [arm["name"] for arm in report["arms"]],
        "outcomes": {verdict["arm"]: verdict["outcome"] for verdict in report["verdicts"]},
    }


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
    if not is_there(folder / "report.json"):
        return "-", "-", "-", "no report yet: run the same command again"
    try:
        found = _read(folder)
        outcomes = "; ".join(f"{arm}: {outcome}" for arm, outcome in found["outcomes"].items())
        return str(found["model"]), str(found["task"]), ", ".join(found["arms"]), outcomes or "-"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "-", "-", "-", f"a damaged report: `tunewise report {folder}` writes it again"


def _read(folder: Path) -> dict[str, Any]:
    """What was summed up of the study's report. Raises ValueError, KeyError or TypeError where that is damaged."""
    if not is_there(folder / SUMMARY):  # of an earlier version
        return _summary(json.loads(read_text(folder / "report.json")))
    found = unsealed(read_text(folder / SUMMARY))
    if found is None or file_hash(folder / "report.json") != found["report"]:
        raise ValueError("not what the report wrote")
    return found
