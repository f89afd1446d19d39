"""Commands that only read finished studies: report and list."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.gate import CLOSED, FailOnOption, GateArms, Junit, Summary, gate_of, gated_study
from tunewise.cli.options import PeftResults, Records
from tunewise.cli.show import placed_together, show_advice, show_report, show_sets, show_side_by_side
from tunewise.errors import SpecError
from tunewise.text.output import say


def report(  # noqa: PLR0913 - every parameter is an option of the command
    folders: Annotated[list[Path], typer.Argument(help="Study folders. Several are compared in one table.")],
    records: Records = None,
    peft_results: PeftResults = None,
    advice: Annotated[bool, typer.Option("--advice", help="Print only the recommendation.")] = False,
    learn: Annotated[
        bool, typer.Option("--learn", help="Explain each section, for a first look at such a report.")
    ] = False,
    fail_on: FailOnOption = None,
    arm: GateArms = None,
    summary: Summary = None,
    junit: Junit = None,
) -> None:
    """Rebuild a report without training; compare several studies."""
    from tunewise.commands.report import export, read_reports, write_files
    from tunewise.commands.sets import report_sets
    from tunewise.desk.report.lessons import NONE, lessons

    if learn and (len(folders) > 1 or peft_results or advice):
        raise SpecError("--learn explains the whole report of one study. Give one folder, without --advice and others.")
    gate = gate_of(fail_on, arm or [], summary, junit)
    study = gated_study(gate, folders)
    if of_sets := report_sets(folders, is_plain=not (records or peft_results or advice or learn)):
        show_sets(of_sets)
        if gate and not gate.lets_pass(of_sets.report, study):
            raise typer.Exit(CLOSED)
        return
    explained = lessons() if learn else NONE
    results = read_reports(folders, records)
    is_alone = len(results) == 1 and not peft_results
    together = None if advice or is_alone else placed_together(results, peft_results or [])
    if len(results) == 1:  # after everything that can be refused
        write_files(results[0], explained)
    if records:
        say(f"{export(folders, records)} runs written to {records}")
    if advice:
        show_advice(results)
    elif together:
        show_side_by_side(together)
    else:
        show_report(results[0], explained)
    if gate and not gate.lets_pass(results[0].report, study):
        raise typer.Exit(CLOSED)


def list_studies(
    root: Annotated[Path, typer.Argument(help="Folder that holds study folders.")] = Path("runs"),
) -> None:
    """List the studies in a folder with their verdicts."""
    from tunewise.cli.terminal import Terminal
    from tunewise.desk.report.terminal.listing import print_listing

    print_listing(root, Terminal())
