"""A judgment at the gate of a pipeline."""

from collections.abc import Iterator, Sequence

from tunewise.desk.judge.verdicts import FULL
from tunewise.desk.judge.view import JudgedVerdict, JudgeReport
from tunewise.desk.report import wording
from tunewise.desk.report.gate import FAILING, FailOn, GateResult
from tunewise.desk.report.gate import Judged as AtGate
from tunewise.errors import SpecError
from tunewise.text.suggest import listed


def judgment_at_gate(report: JudgeReport, fail_on: FailOn, arms: Sequence[str]) -> GateResult:
    """Which arms pass (all if none is named), by the verdict on the mean of the tasks, else by that on every task.

    Raises SpecError if an arm is named that was not judged.
    """
    known = list(dict.fromkeys(run.arm for run in report.runs if run.arm != FULL))
    if unknown := [arm for arm in arms if arm not in known]:
        raise SpecError(f"--arm {unknown[0]}: no logs of such an arm were given. Known: {listed(known)}.")
    return GateResult(report.name, report.headline, fail_on, tuple(_judged(report, fail_on, arms or known)))


def _judged(report: JudgeReport, fail_on: FailOn, arms: Sequence[str]) -> Iterator[AtGate]:
    verdicts = [verdict for verdict in report.at_gate() if verdict.arm in arms]
    for verdict in verdicts:
        passes = verdict.outcome not in FAILING[fail_on]
        yield AtGate(_name(verdict, report), passes, wording.OUTCOMES[verdict.outcome], verdict.sentence)


def _name(verdict: JudgedVerdict, report: JudgeReport) -> str:
    """The arm, with its task if there is a verdict on several."""
    is_only = len({of.tasks for of in report.at_gate()}) == 1
    return verdict.arm if is_only else f"{verdict.arm} on {verdict.tasks[0]}"
