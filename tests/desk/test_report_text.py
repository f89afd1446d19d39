"""The report in the terminal: nothing is lost at any width, and text from models stays text."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tunewise.desk.report import wording
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.terminal.text import print_report
from tunewise.desk.report.views.view import Report
from tunewise.records import RunRecord
from tunewise.storage.ledger import Ledger


@pytest.fixture(scope="module")
def report(finished: Ledger) -> Report:
    return build_report(finished)


def terminal(report: Report, width: int) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        print_report(report, console, Path("runs/docstrings"))
    return captured.get()


def verdict_row(text: str, arm: str) -> str:
    """The arm's row of the verdict table, which comes first below its title."""
    lines = [line.rstrip() for line in text.splitlines()]
    return next(line for line in lines[lines.index("compared with full") :] if line.split()[:1] == [arm])


def test_at_80_columns_every_arm_and_outcome_stands_unbroken(report: Report) -> None:
    text = terminal(report, 80)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert len(report.verdicts) == 2
    for verdict in report.verdicts:
        assert wording.OUTCOMES[verdict.outcome] in verdict_row(text, verdict.arm)
    for shown in ("16.6 MiB", "4,340,000", "runs/docstrings/report.html"):
        assert shown in text


def test_a_reason_for_being_undecided_takes_no_room_from_the_numbers(make_study: Any) -> None:
    report = build_report(make_study(study={"tuning": {"rates": 1}}))
    text = terminal(report, 80)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for verdict in report.verdicts:
        row = verdict_row(text, verdict.arm)
        assert "inconclusive" in row
        assert row.count("×") == 2  # time and disk
    assert "optimum-at-edge" in text


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_no_width_loses_a_number(report: Report, width: int) -> None:
    text = terminal(report, width)
    for arm in report.tuned_arms():
        assert f"{arm.trainable_parameters:,}" in text
        assert f"{arm.metrics['nll'].mean:.4f}" in text
    for finding in report.warnings:
        assert finding.sentence.split()[0] in text


def test_markup_in_text_from_data_and_models_is_printed_as_it_is(make_study: Any) -> None:
    marked = "[bold]x[/bold] [/nothing]"

    def hostile(record: RunRecord) -> RunRecord:
        samples = [s.replace(prompt=marked, output=marked, reference=marked).model_dump() for s in record.samples]
        return record.replace(samples=samples, warnings=[marked])

    text = terminal(build_report(make_study(change=hostile)), 200)
    assert text.count(marked) == 7  # prompt, reference, four outputs, one warning


@pytest.mark.parametrize("max_runs", [0, 1, 14])
def test_an_unfinished_study_prints_why_there_is_no_verdict(make_study: Any, max_runs: int) -> None:
    text = terminal(build_report(make_study(max_runs=max_runs)), 80)
    assert "No verdict yet" in text
    assert "inconclusive" not in text
