"""Reports in the terminal: one report, only its advice, or several studies compared."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewise.text.output import say


def show_report(result: Any, lessons: Mapping[str, str] | None = None) -> None:
    """Print a report; `lessons` explain its sections."""
    from tunewise.cli.terminal import Terminal
    from tunewise.desk.report.terminal.text import print_report

    print_report(result.report, Terminal(), result.folder, lessons or {})


def show_sets(result: Any) -> None:
    """Print the report on several datasets."""
    from tunewise.cli.terminal import Terminal
    from tunewise.desk.report.terminal.sets import print_sets

    print_sets(result.report, Terminal(), result.folder)


def show_advice(results: list[Any]) -> None:
    """Print only the last section of each report."""
    from tunewise.cli.terminal import Terminal
    from tunewise.desk.report.terminal.text import print_advice

    for result in results:
        if len(results) > 1:
            say(f"\n{result.folder}")
        print_advice(result.report, Terminal())


def placed_together(results: list[Any], peft_results: list[Path]) -> Any:
    """Table of several studies and of results of peft's suite. Raises StudyError if they measured different things."""
    from tunewise.desk.report.across import side_by_side
    from tunewise.desk.report.bases import between_bases, have_other_bases
    from tunewise.desk.report.peft_results import peft_result
    from tunewise.storage.ledger import Ledger

    others = [peft_result(path) for path in peft_results]
    reports = {str(result.folder): result.report for result in results}
    if have_other_bases(reports):
        together = between_bases({str(result.folder): Ledger.open(result.folder) for result in results}, reports)
    else:
        together = side_by_side(reports)
    rows, remarks = [row for row, _ in others], [remark for _, remark in others]
    return together.replace(rows=(*together.rows, *rows), remarks=(*together.remarks, *remarks))


def show_side_by_side(together: Any) -> None:
    """Print the table that `placed_together` returned."""
    from tunewise.cli.terminal import Terminal
    from tunewise.desk.report.across import print_side_by_side

    print_side_by_side(together, Terminal())


def show_unfinished(messages: Sequence[str]) -> None:
    """Print which runs were lost, and how to try them again."""
    lines = "\n".join(f"- {line}" for line in messages)
    say(f"The study is not complete. These runs failed:\n{lines}", error=True)
    say(f"To try them again: {shlex.join(['tunewise', *sys.argv[1:]])}", error=True)
