"""Reports in the terminal: one, its advice alone, or several side by side."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewise.text.output import say


def show_report(result: Any) -> None:
    """Print a report."""
    from tunewise.cli.terminal import Terminal
    from tunewise.desk.report.terminal.text import print_report

    print_report(result.report, Terminal(), result.folder)


def show_advice(results: list[Any]) -> None:
    """Print the last section of each report alone."""
    from tunewise.cli.terminal import Terminal
    from tunewise.desk.report.terminal.text import print_advice

    for result in results:
        if len(results) > 1:
            say(f"\n{result.folder}")
        print_advice(result.report, Terminal())


def placed_together(results: list[Any], peft_results: list[Path]) -> Any:
    """Reports side by side, with results of peft's suite. Raises StudyError where they measured different things."""
    from tunewise.desk.report.across import SideBySide, side_by_side
    from tunewise.desk.report.peft_results import peft_result

    others = [peft_result(path) for path in peft_results]
    together = side_by_side({str(result.folder): result.report for result in results})
    rows, remarks = [row for row, _ in others], [remark for _, remark in others]
    return SideBySide(rows=(*together.rows, *rows), remarks=(*together.remarks, *remarks))


def show_side_by_side(together: Any) -> None:
    """Print what `placed_together` gave."""
    from tunewise.cli.terminal import Terminal
    from tunewise.desk.report.across import print_side_by_side

    print_side_by_side(together, Terminal())


def show_unfinished(messages: Sequence[str]) -> None:
    """Say which runs were lost, and how to try them again."""
    lines = "\n".join(f"- {line}" for line in messages)
    say(f"not everything that was asked for is done; these runs were lost:\n{lines}", error=True)
    say(f"The same command tries them again: {shlex.join(['tunewise', *sys.argv[1:]])}", error=True)
