"""A judgment in the terminal: answer, sentences, tasks, findings. Fits 80 columns or fewer."""

from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from tunewise.desk.judge.view import JudgedVerdict, JudgeReport
from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import wording
from tunewise.desk.report.terminal.text import OUTCOME_STYLES, print_findings, print_rows


def print_judgment(report: JudgeReport, console: Console, folder: Path) -> None:
    """Print a judgment whose page is in `folder`. Text from logs is printed as it is, never as markup."""
    console.print(Text(f"\n{report.question}", style="dim"))
    console.print(Text(report.headline, style="bold"))
    for verdict in report.at_gate():
        console.print(Padding(Text(f"- {verdict.sentence}"), (0, 0, 0, 2)))
        if verdict.needs:
            console.print(Padding(Text(verdict.needs, style="dim"), (0, 0, 0, 4)))
    of_tasks = [verdict for verdict in report.verdicts if not verdict.is_mean]
    for metric in dict.fromkeys(verdict.metric for verdict in of_tasks):
        rows = [_cells(verdict) for verdict in of_tasks if verdict.metric == metric]
        shown = metric_named(metric)
        caption = f"difference in {shown.difference_unit}; {wording.sign_meaning(metric)}"
        columns = ("task, arm", "verdict", "arm", "full", "difference", "items")
        print_rows(console, shown.label, columns, rows, caption)
    for flips in report.flips:
        counts = f"{flips.num_won:,} items won, {flips.num_lost:,} lost, {flips.num_equal:,} equal"
        console.print(Text(f"{flips.arm}, {flips.task}: {counts}", style="dim"))
    print_findings(report.findings, console)
    console.print(Text.assemble("\nreport: ", (str(folder / "judge.html"), "bold")), soft_wrap=True)


def _cells(verdict: JudgedVerdict) -> tuple[Text, ...]:
    difference = Text(wording.difference(verdict.metric, verdict.difference))
    difference.append(f"\n{wording.signed_interval(verdict.metric, verdict)}", style="not bold dim")
    return (
        Text(verdict.tasks[0]).append(f"\n{verdict.arm}", style="not bold dim"),
        Text(wording.OUTCOMES[verdict.outcome], style=f"bold {OUTCOME_STYLES[verdict.outcome]}"),
        Text(wording.figure(verdict.metric, verdict.means[verdict.arm])),
        Text(wording.figure(verdict.metric, verdict.means[verdict.against])),
        difference,
        Text(f"{verdict.num_rows:,}"),
    )
