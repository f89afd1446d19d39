"""The report on several datasets in the terminal: answer, sentences, and the verdict of each set."""

from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import wording
from tunewise.desk.report.terminal.text import print_rows
from tunewise.desk.report.views.sets_view import SetsReport


def print_sets(report: SetsReport, console: Console, folder: Path) -> None:
    """Print the report of the sets in `folder`. Text from data and models is printed as it is."""
    console.print(Text(f"\n{report.question}", style="dim"))
    console.print(Text(report.headline, style="bold"))
    for verdict in report.verdicts:
        console.print(Padding(Text(f"- {verdict.sentence}"), (0, 0, 0, 2)))
    for verdict in report.verdicts:
        metric = metric_named(verdict.metric)
        rows = [
            (
                Text(name),
                Text(wording.OUTCOMES[of.outcome]),
                Text(wording.difference(verdict.metric, of.estimate)),
                Text(wording.signed_interval(verdict.metric, of)),
            )
            for name, of in verdict.by_set.items()
        ]
        caption = f"difference in {metric.difference_unit}; {wording.sign_meaning(metric.name)}"
        columns = ("set", "verdict", "difference", "interval")
        print_rows(console, f"{verdict.arm}, {metric.label}", columns, rows, caption)
    for one in report.sets if not report.verdicts else ():
        console.print(Text(f"{one.name}: {one.headline}"))
    console.print(Text.assemble("\nreport: ", (str(folder / "sets.html"), "bold")), soft_wrap=True)
