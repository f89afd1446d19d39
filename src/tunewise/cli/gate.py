"""Options that make a verdict an exit status: --fail-on, --arm, --summary, --junit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewise.cli.options import to_write
from tunewise.text.output import say

if TYPE_CHECKING:
    from tunewise.desk.report.gate import FailOn, GateResult

CLOSED = 4  # exit status if an arm does not pass

FailOnOption = Annotated[
    str | None,
    typer.Option(
        "--fail-on",
        metavar="TEXT",
        help="Exit with 4 if an arm is `worse`, `undecided` (inconclusive or withheld) or `not-as-good` (either).",
    ),
]
GateArms = Annotated[
    list[str] | None,
    typer.Option("--arm", metavar="TEXT", help="With --fail-on: only this arm must pass. Repeatable."),
]
Summary = Annotated[
    Path | None,
    typer.Option(parser=to_write, metavar="PATH", help="With --fail-on: also write the result as Markdown."),
]
Junit = Annotated[
    Path | None,
    typer.Option(parser=to_write, metavar="PATH", help="With --fail-on: also write the result as a JUnit .xml file."),
]


@dataclass(frozen=True)
class Gate:
    """What was asked for."""

    fail_on: "FailOn"
    arms: Sequence[str]  # (): all in question
    summary: Path | None
    junit: Path | None

    def lets_pass(self, report: Any, study: Any) -> bool:
        """Whether the report of a study passes; says so, and writes what was asked for."""
        from tunewise.desk.report.gate import arms_in_question, at_gate

        return self.tell(at_gate(report, self.fail_on, self.arms or arms_in_question(report, study)))

    def tell(self, result: "GateResult") -> bool:
        """Say whether the arms pass, write what was asked for, and return whether all do."""
        from tunewise.storage.disk import write_output

        if self.summary:
            write_output(self.summary, lambda temporary: temporary.write_text(result.markdown(), encoding="utf-8"))
        if self.junit:
            write_output(self.junit, lambda temporary: temporary.write_text(result.junit(), encoding="utf-8"))
        say(result.line())
        return result.passes


def gate_of(fail_on: str | None, arms: Sequence[str], summary: Path | None, junit: Path | None) -> Gate | None:
    """The gate that options ask for, before anything is trained; None: none. Raises SpecError or StudyError."""
    from tunewise.desk.report.gate import FAIL_ON, HEADING
    from tunewise.errors import SpecError
    from tunewise.storage.disk import require_output
    from tunewise.storage.files import read_text
    from tunewise.text.suggest import lookup

    if fail_on is None:
        if arms or summary or junit:
            raise SpecError(f"--arm, --summary and --junit need a gate. Add --fail-on {' | '.join(FAIL_ON)}.")
        return None
    if summary:
        require_output(summary)
        if summary.is_file() and (content := read_text(summary)) and not content.startswith(HEADING):
            raise SpecError(f"--summary {summary} holds something else than a summary. Give the name of a new file.")
    if junit:
        require_output(junit, ".xml")
    return Gate(lookup({word: word for word in FAIL_ON}, fail_on, "word of --fail-on"), arms, summary, junit)


def require_arms(gate: Gate | None, study: Any) -> None:
    """Raise SpecError if the gate names an arm that gets no verdict."""
    from tunewise.errors import SpecError
    from tunewise.spec.expand import PLACEMENTS, arm_name

    if gate is None:
        return
    open_arms = [arm for arm in study.compared_arms if study.arms[arm].has_open_targets]
    known = [*study.compared_arms, *(arm_name(arm, placement) for arm in open_arms for placement in PLACEMENTS)]
    for arm in gate.arms:
        if arm not in known:
            raise SpecError(f"--arm {arm}: this study gives no verdict on such an arm. Known: {', '.join(known)}.")


def gated_study(gate: Gate | None, folders: Sequence[Path]) -> Any:
    """The study in the one folder that a gate is about; None without a gate. Raises SpecError or StudyError."""
    from tunewise.errors import SpecError
    from tunewise.storage.ledger import Ledger

    if gate is None:
        return None
    if len(folders) != 1:
        raise SpecError(f"--fail-on takes one study folder, but {len(folders)} were given.")
    study = Ledger.open(folders[0]).study()
    require_arms(gate, study)
    return study
