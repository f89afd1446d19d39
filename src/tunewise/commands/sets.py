"""Studies of several datasets: a study per set, and the report on their mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewise.commands.compare import compare
from tunewise.commands.opening import begin, load_data
from tunewise.desk.metrics.metrics import check_asked, judged_metrics, metric_named
from tunewise.desk.protocol import resolve
from tunewise.desk.report.compose.sets import declared_sets, ledger_of
from tunewise.desk.report.views.sets_view import SetsReport
from tunewise.desk.study.state import StudyState
from tunewise.errors import SpecError, StudyError
from tunewise.executors import ask
from tunewise.executors.local.client import LocalExecutor
from tunewise.records import events
from tunewise.records.events import Listener, unheard
from tunewise.spec import StudySpec
from tunewise.storage.ledger import Ledger
from tunewise.storage.lock import exclusive, reporting


@dataclass(frozen=True)
class SetsResult:
    """A finished study of several datasets: its report, and its folder."""

    folder: Path
    report: SetsReport
    unfinished: tuple[str, ...] = ()  # a line for every requested run that was lost; (): none was


def compare_sets(
    study: StudySpec,
    out: Path | str | None = None,
    listener: Listener = unheard,
    *,
    again: bool = False,
    least_chance: float = 0.0,
    ray_address: str | None = None,
) -> SetsResult:
    """Run what is missing of the study of each set, write all reports, and return the one on their mean.

    All sets are prepared and declared before the first run. The same call resumes. Raises UserError as `compare` does,
    and SpecError if two sets share a test set, or their verdicts would be about different metrics.
    """
    ledger = begin(study, out)
    with exclusive(ledger.folder):
        if not ledger.is_begun():  # so that the same command continues whatever ends it
            ledger.store_study(study)
        states = {name: _prepared(study.of_set(name), ledger_of(ledger, name)) for name in study.sets}
        _require_comparable(states)
        is_scored = any(record.spec.role == "confirm" for state in states.values() for record in state.records)
        if ledger.declared() is None or not is_scored:
            ledger.declare(declared_sets(states))
        ledger.store_study(study)
        lost = []
        for number, name in enumerate(study.sets, start=1):
            listener(events.NextSet(name=name, number=number, total=len(study.sets)))
            folder = ledger_of(ledger, name).folder
            of_set = study.of_set(name)
            done = compare(of_set, folder, listener, again=again, least_chance=least_chance, ray_address=ray_address)
            lost += [f"{name}: {line}" for line in done.unfinished]
        return SetsResult(ledger.folder, write_sets_report(ledger), tuple(lost))


def report_sets(folders: Sequence[Path], is_plain: bool) -> SetsResult | None:
    """The rebuilt report of a study of several datasets; None if no folder holds one.

    `is_plain`: no options are given. Raises StudyError if there are options or other folders as well.
    """
    ledgers = [ledger for ledger in map(Ledger.open, folders) if ledger.study().sets]
    if not ledgers:
        return None
    if len(folders) > 1 or not is_plain:
        one = ledger_of(ledgers[0], next(iter(ledgers[0].study().sets))).folder
        raise StudyError(
            f"{ledgers[0].folder} holds a study of several datasets, whose report has no options and is compared with "
            f"no other. Give the folder of one set, such as {one}."
        )
    return SetsResult(ledgers[0].folder, write_sets_report(ledgers[0]))


def write_sets_report(ledger: Ledger) -> SetsReport:
    """The report on all sets, also written: sets.json and sets.html. Raises StudyError if a set is damaged."""
    from tunewise.desk.report.pages import sets  # as commands/report.py does

    with reporting(ledger.folder):
        return sets.write_sets_report(ledger)


def _prepared(study: StudySpec, ledger: Ledger) -> StudyState:
    """The state of the study of one set, with its data prepared."""
    check_asked(study)
    begin(study, ledger.folder)
    with exclusive(ledger.folder) as lock, LocalExecutor((lock,)) as executor:
        data = load_data(ledger, ask.prepare(executor, study, ledger.folder / "data"))
    resolved = resolve.resolve(study, data)
    check_asked(resolved)
    return StudyState.of(resolved, data, ledger.records(), ledger)


def _require_comparable(states: Mapping[str, StudyState]) -> None:
    """Raise SpecError unless every set has a test set of its own and all verdicts are about the same metrics."""
    seen: dict[str, str] = {}
    metrics = {name: judged_metrics(state.study) for name, state in states.items()}
    first = next(iter(states))
    for name, state in states.items():
        if metrics[name] != metrics[first]:
            one, other = (metric_named(metrics[of][0]).label for of in (first, name))
            raise SpecError(
                f"data.sets: verdicts would be about {one} in {first} and about {other} in {name}, which have no mean. "
                "Declare `primary`, or compare datasets of one task."
            )
        test_set = state.data.test_set or state.data.inputs.data
        if test_set in seen:
            raise SpecError(f"data.sets: {seen[test_set]} and {name} have the same test rows. Remove one.")
        seen[test_set] = name
