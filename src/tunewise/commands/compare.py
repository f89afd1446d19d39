"""The driver: ask the desk what to run next, hand it to the lab, store the records, write the report."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tunewise.commands.deliver import deliver, disk_needed, tidy, undelivered
from tunewise.commands.opening import begin, load_data, require_declarations, require_no_stale
from tunewise.commands.planning import planned
from tunewise.commands.report import StudyResult, written
from tunewise.desk.fairness import check_before
from tunewise.desk.fairness.finding import Finding
from tunewise.desk.planning.expected import num_scored, trials_of
from tunewise.desk.protocol import resolve, schedule
from tunewise.desk.protocol.resolve import settled
from tunewise.desk.statistics.metrics import check_asked
from tunewise.desk.study.declarations import declarations
from tunewise.desk.study.state import StudyState
from tunewise.desk.study.verdicts import undecided
from tunewise.errors import StudyError
from tunewise.executors import ask
from tunewise.executors.attempts import Attempts
from tunewise.executors.local.client import LocalExecutor
from tunewise.inputs.input_files import InputFiles
from tunewise.records import LOST, RunRecord, events
from tunewise.records.events import Listener, unheard
from tunewise.spec import RunSpec, StudySpec
from tunewise.storage.ledger import Ledger
from tunewise.storage.lock import exclusive


def compare(
    study: StudySpec, out: Path | str | None = None, listener: Listener = unheard, *, again: bool = False
) -> StudyResult:
    """Run what is missing of `study`, write its report, return both.

    `out` is the study folder (default `runs/<name>`). The same call continues where an earlier one stopped. `again`:
    finished runs that were made with other inputs, libraries or threads are made again; without it that is an error.
    `listener` hears of every step. Raises UserError before anything is trained where the study cannot run, and
    KeyboardInterrupt after a Ctrl-C or SIGTERM, once the run that was going on is saved.
    """
    check_asked(study)
    ledger = begin(study, out)
    with exclusive(ledger.folder) as lock:
        ledger.sweep()
        inputs = InputFiles.of(study, ledger.folder)
        with LocalExecutor((lock,)) as executor:
            work = Work(Attempts(executor, ledger, study.machine, listener), inputs)
            finished = run_missing(study, work, again)
        tidy(ledger, finished.study, finished.records)  # an earlier command may have ended before it came to that
        deliver(ledger, finished.study, finished.records)
        return written(ledger, unfinished(finished))


class Work(NamedTuple):
    """What the runs of a study are made with."""

    attempts: Attempts
    inputs: InputFiles

    def run(self, spec: RunSpec, data_key: str) -> RunRecord:
        """The record of a run, which read what the study began with. Raises StudyError where that changed."""
        self.inputs.require_same()
        ledger = self.attempts.ledger
        record = self.attempts.run(spec, ledger.data_folder(data_key))
        try:
            self.inputs.require_same("runs")
        except StudyError:
            ledger.forget(spec.run_id)  # which of the two it read is not known
            raise
        return record


def run_missing(study: StudySpec, work: Work, again: bool) -> StudyState:
    """The state of the study once every run that it asks for is there."""
    executor, ledger, listener = work.attempts.executor, work.attempts.ledger, work.attempts.listener
    listener(events.Preparing())
    data = load_data(ledger, ask.prepare(executor, study, ledger.folder / "data"))
    work.inputs.require_same()
    declared = resolve.resolve(study, data)
    check_asked(declared)
    ledger.require_space(disk_needed(declared, data))
    listener(events.Findings(findings=tuple(_as_told(finding) for finding in check_before(declared, data))))
    # what an earlier command lost gets another chance: its cause may be gone
    stored = [r for r in ledger.records() if r.status not in LOST]
    require_declarations(ledger, stored)
    if not again:
        require_no_stale(declared, data, stored)
    listener(events.Planning())
    declared = settled(declared, planned(executor, ledger, declared, data, listener))
    ledger.store_study(declared)
    records = {r.run_id: r for r in stored}
    for run_id in records:
        ledger.clear(run_id)
    state = StudyState.of(declared, data, stored, ledger)
    while runs := next_runs(state) or undelivered(ledger, state):
        if any(spec.role == "confirm" for spec in runs):
            declare(ledger, state, records.values())
        current = list(state.records)
        for number, spec in enumerate(runs):
            listener(begins(spec, state, current, len(runs) - number))
            records[spec.run_id] = work.run(spec, data.key)
            current = schedule.current(state.study, data, list(records.values()))
            tidy(ledger, state.study, current)
        state = StudyState.of(declared, data, list(records.values()), ledger)
    return state


def _as_told(finding: Finding) -> events.Remark:
    return events.Remark.model_validate(finding.model_dump())


def unfinished(state: StudyState) -> tuple[str, ...]:
    """A line for every run that the study asked for and that gave no result."""
    return tuple(
        f"{record.spec.arm}, seed {record.spec.seed}: {record.status}" + (f" ({record.message})" * bool(record.message))
        for record in state.records
        if record.status in LOST
    )


def declare(ledger: Ledger, state: StudyState, records: Iterable[RunRecord]) -> None:
    """Store what the study declares, unless an arm was scored on test already: then what stands is what counts."""
    is_scored = any(r.spec.role == "confirm" and r.status not in LOST for r in records)
    if ledger.declared() is None or not is_scored:
        ledger.declare(declarations(state.study, state.data))


def next_runs(state: StudyState) -> list[RunSpec]:
    """The runs that come next, those of the second look once the verdicts of the first are known."""
    runs = schedule.next_runs(state.study, state.data, state.records, ())
    if runs or len(state.study.looks) == 1:
        return runs
    return schedule.next_runs(state.study, state.data, state.records, undecided(state))


def begins(spec: RunSpec, state: StudyState, records: Sequence[RunRecord], waiting: int) -> events.Begin:
    """A run starts: how many are done, about how many there will be if no search is extended and no arm goes on."""
    study, first = state.study, len(state.first_searches)
    trained = study.trained_arms
    trials = sum(sum(trials_of(study, arm, "least")) for arm in trained.values())
    expected = num_scored(study) + first + trials + len(trained) * study.looks[0]
    done = first + len(records)
    return events.Begin(spec=spec, done=done, expected=max(expected, done + waiting))
