"""A gate for pipelines: which arms of a report pass, as a line, as Markdown, and as a file of JUnit.

JUnit's file has no standard. `testsuite`, `testcase` and `failure` with these attributes are what GitHub's actions,
GitLab and Jenkins read.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tunewise.desk.report import wording
from tunewise.desk.report.views.sets_view import MeanVerdictView, SetsReport
from tunewise.desk.report.views.view import Report, VerdictView
from tunewise.desk.statistics.verdict import Outcome
from tunewise.spec import StudySpec
from tunewise.text.safe import pictured
from tunewise.text.suggest import listed

FailOn = Literal["worse", "undecided", "not-as-good"]
FAIL_ON: tuple[FailOn, ...] = get_args(FailOn)
HEADING = "### tunewise"  # how every summary begins
FAILING: dict[FailOn, tuple[Outcome, ...]] = {
    "worse": ("worse",),
    "undecided": ("undecided",),
    "not-as-good": ("worse", "undecided"),
}


@dataclass(frozen=True)
class Judged:
    """One arm at the gate."""

    arm: str
    passes: bool
    word: str  # of its verdict, as readers see it
    reason: str  # a sentence: the verdict, or why there is none


@dataclass(frozen=True)
class GateResult:
    """The arms of a study at the gate."""

    study: str
    headline: str
    fail_on: FailOn
    arms: tuple[Judged, ...]

    @property
    def passes(self) -> bool:
        """Whether every arm passes; a study without an arm in question does not."""
        return bool(self.arms) and all(arm.passes for arm in self.arms)

    def line(self) -> str:
        """'gate --fail-on worse: failed. lora: worse.'"""
        shown = [f"{arm.arm}: {arm.word}" for arm in self.arms if self.passes or not arm.passes]
        return f"gate --fail-on {self.fail_on}: {self._word()}. {listed(shown) or 'No arm has a verdict'}."

    def markdown(self) -> str:
        """A summary for the page of a pipeline's job."""
        lines = [f"{HEADING} {_cell(self.study)}: {self._word()} (`--fail-on {self.fail_on}`)", ""]
        lines += [_cell(self.headline), "", "| arm | gate | verdict | reason |", "| --- | --- | --- | --- |"]
        for arm in self.arms:
            gate = "passed" if arm.passes else "**failed**"
            lines.append(f"| {_cell(arm.arm)} | {gate} | {arm.word} | {_cell(arm.reason)} |")
        return "\n".join(lines) + "\n"

    def junit(self) -> str:
        """A test suite with one case for each arm."""
        name, failures = pictured(self.study), sum(not arm.passes for arm in self.arms)
        suite = ET.Element("testsuite", name=name, tests=str(len(self.arms)), failures=str(failures), errors="0")
        for arm in self.arms:
            case = ET.SubElement(suite, "testcase", classname=name, name=pictured(arm.arm))
            if not arm.passes:
                ET.SubElement(case, "failure", type=self.fail_on, message=arm.word).text = pictured(arm.reason)
        ET.indent(suite)
        return ET.tostring(suite, encoding="unicode") + "\n"

    def _word(self) -> str:
        return "passed" if self.passes else "failed"


def at_gate(report: Report | SetsReport, fail_on: FailOn, arms: Sequence[str]) -> GateResult:
    """Which `arms` of a report pass.

    An arm fails without a verdict, and at an interim look that has not decided yet: a gate that cannot tell is closed.
    """
    verdicts: Sequence[VerdictView | MeanVerdictView] = report.verdicts
    found = {verdict.arm: verdict for verdict in reversed(verdicts)}  # of sets, the primary metric comes first
    name = report.name if isinstance(report, SetsReport) else report.study.name
    judged = (_judged(arm, found.get(arm), report, fail_on) for arm in arms)
    return GateResult(name, report.headline, fail_on, tuple(judged))


def arms_in_question(report: Report | SetsReport, study: StudySpec) -> tuple[str, ...]:
    """The arms that a gate asks about unless some are named, with or without a verdict."""
    if isinstance(report, Report):
        others = [arm.name for arm in report.tuned_arms() if arm.name != report.study.full_arm]
        return tuple(arm for arm in others if arm != report.study.reference_arm) or tuple(others)
    closed = [name for name in study.compared_arms if not study.arms[name].has_open_targets]
    return tuple(dict.fromkeys([*closed, *(verdict.arm for verdict in report.verdicts)]))


def _judged(
    arm: str, verdict: VerdictView | MeanVerdictView | None, report: Report | SetsReport, fail_on: FailOn
) -> Judged:
    if verdict is None:
        why = report.no_verdict if isinstance(report, Report) else None
        return Judged(arm, passes=False, word="no verdict", reason=why or "There is no verdict on this arm.")
    word = "verdict withheld" if verdict.blocked_by else wording.OUTCOMES[verdict.outcome]
    is_open = verdict.outcome == "undecided" and not report.is_complete
    reason = f"The study is not complete. {verdict.sentence}" if is_open else verdict.sentence
    return Judged(arm, not is_open and verdict.outcome not in FAILING[fail_on], word, reason)


def _cell(text: str) -> str:
    """Text from a study inside a line of Markdown: no cell, link or element of its own."""
    shown = pictured(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for sign in "|`[]*_!":
        shown = shown.replace(sign, f"\\{sign}")
    return " ".join(shown.split())
