"""A gate for pipelines: closed for every verdict that was named, and for everything that cannot be told."""

import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from desk.conftest import write_study
from tunewise.cli.app import app
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.gate import FAIL_ON, FailOn, GateResult, arms_in_question, at_gate
from tunewise.desk.report.views.view import Report
from tunewise.desk.statistics.verdict import Outcome
from tunewise.errors import UserError
from tunewise.storage.ledger import Ledger

PASSING: dict[FailOn, set[Outcome]] = {
    "worse": {"better", "as good", "undecided"},
    "undecided": {"better", "as good", "worse"},
    "not-as-good": {"better", "as good"},
}
ARM = "lora-r8"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return write_study(tmp_path_factory.mktemp("gate") / "study")


@pytest.fixture(scope="module")
def report(ledger: Ledger) -> Report:
    return build_report(ledger)


def gated(report: Report, fail_on: FailOn, **changes: object) -> GateResult:
    """The gate on a report in which every verdict was changed so."""
    verdicts = tuple(verdict.replace(**changes) for verdict in report.verdicts)
    return at_gate(report.replace(verdicts=verdicts), fail_on, [ARM])


@pytest.mark.parametrize("fail_on", FAIL_ON)
@pytest.mark.parametrize("outcome", ["better", "as good", "worse", "undecided"])
def test_it_passes_for_the_outcomes_that_were_not_named(report: Report, fail_on: FailOn, outcome: Outcome) -> None:
    assert gated(report, fail_on, outcome=outcome).passes == (outcome in PASSING[fail_on])


@pytest.mark.parametrize("fail_on", FAIL_ON)
def test_it_is_closed_where_there_is_no_verdict(report: Report, fail_on: FailOn) -> None:
    for without in (report.replace(verdicts=()), report.replace(verdicts=(), no_verdict="why")):
        assert not at_gate(without, fail_on, [ARM]).passes
    assert not at_gate(report, fail_on, []).passes
    assert not at_gate(report, fail_on, ["no such arm"]).passes


@pytest.mark.parametrize("fail_on", FAIL_ON)
def test_it_is_closed_while_an_arm_is_open(report: Report, fail_on: FailOn) -> None:
    assert not gated(report.replace(is_complete=False), fail_on, outcome="undecided").passes


def test_it_asks_about_all_arms_but_full_and_the_reference(ledger: Ledger, report: Report) -> None:
    asked = arms_in_question(report, ledger.study())
    assert set(asked) == {arm.name for arm in report.arms} - {"base", "full"}
    assert set(arms_in_question(report.replace(verdicts=()), ledger.study())) == set(asked), "a lost arm is asked for"


def test_the_files_hold_every_arm_and_are_inert(report: Report) -> None:
    hostile = "a|b <img src=x> `c` [d](e)\x1b[2J\n# f"
    result = gated(report, "worse", outcome="worse", sentence=hostile)
    result = GateResult(hostile, hostile, "worse", result.arms)
    markdown = result.markdown()
    assert "<img" not in markdown
    assert "\x1b" not in markdown
    assert len([line for line in markdown.splitlines() if line.startswith("|")]) == 2 + len(result.arms)
    assert not re.search(r"(?<!\\)\]\(", markdown)
    suite = ET.fromstring(result.junit())
    assert [case.get("name") for case in suite] == [ARM]
    assert suite.get("failures") == "1"
    assert (suite[0][0].text or "").startswith("a|b <img")


# --- the command


@pytest.fixture
def run(ledger: Ledger) -> Callable[..., Result]:
    return lambda *options: CliRunner().invoke(app, ["report", str(ledger.folder), *options])


@pytest.mark.slow
def test_the_exit_status_and_the_files_are_those_of_the_gate(
    run: Callable[..., Result], report: Report, tmp_path: Path
) -> None:
    seen = set()
    for fail_on, arm in itertools.product(FAIL_ON, [verdict.arm for verdict in report.verdicts]):
        expected = at_gate(report, fail_on, [arm])
        given = run(
            "--fail-on", fail_on, "--arm", arm, "--summary", str(tmp_path / "s"), "--junit", f"{tmp_path}/j.xml"
        )
        assert given.exit_code == (0 if expected.passes else 4)
        assert expected.line() in given.stdout
        assert (tmp_path / "s").read_text(encoding="utf-8") == expected.markdown()
        assert (tmp_path / "j.xml").read_text(encoding="utf-8") == expected.junit()
        seen.add(expected.passes)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fail-on", "wrose"], "unknown word of --fail-on 'wrose'.*worse"),
        (["--summary", "s.md"], "need a gate. Add --fail-on worse"),
        (["--arm", ARM], "need a gate"),
        (["--fail-on", "worse", "--arm", "full"], "--arm full: this study gives no verdict.*Known: lora"),
        (["--fail-on", "worse", "--junit", "j.txt"], "cannot write 'j.txt'.*xml"),
        (["--fail-on", "worse", "--summary", "."], "it is a folder"),
        (["--fail-on", "worse", "elsewhere"], "--fail-on takes one study folder, but 2"),
    ],
)
def test_a_mistake_is_named(run: Callable[..., Result], options: list[str], words: str) -> None:
    error = run(*options).exception
    assert isinstance(error, UserError)
    assert re.search(words, str(error))
