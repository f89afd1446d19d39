"""The driver: ask the desk what to run next, let the lab run it, store the records, write the report."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tunewise.commands.deliver import deliver, disk_needed, tidy, undelivered
from tunewise.commands.opening import (
    begin,
    load_data,
    of_its_time,
    require_declarations,
    require_no_stale,
    require_one_set,
)
from tunewise.commands.planning import planned
from tunewise.commands.report import StudyResult, written
from tunewise.desk.fairness import check_before
from tunewise.desk.fairness.finding import Finding
from tunewise.desk.metrics.metrics import check_asked
from tunewise.desk.planning.expected import num_scored, trials_of
from tunewise.desk.planning.shorter import too_long
from tunewise.desk.protocol import resolve, schedule
from tunewise.desk.protocol.resolve import settled
from tunewise.desk.report.sentences import prospect
from tunewise.desk.study.declarations import declarations
from tunewise.desk.study.looks import read_looks
from tunewise.desk.study.prospects import prospects
from tunewise.desk.study.state import StudyState
from tunewise.desk.study.test_set import uses_in
from tunewise.desk.study.verdicts import going_on, words_at
from tunewise.errors import StudyError
from tunewise.executors import ask
from tunewise.executors.attempts import Attempts
from tunewise.executors.local.client import LocalExecutor
from tunewise.inputs.input_files import InputFiles
from tunewise.records import LOST, RunRecord, events
from tunewise.records.events import Listener, unheard
from tunewise.spec import RunSpec, StudySpec
from tunewise.storage import test_sets
from tunewise.storage.ledger import Ledger
from tunewise.storage.lock import exclusive


def compare(
    study: StudySpec,
    out: Path | str | None = None,
    listener: Listener = unheard,
    *,
    again: bool = False,
    least_chance: float = 0.0,
) -> StudyResult:
    """Run what is missing of `study`, write its report, and return both.

    `out` is the study folder (default `runs/<name>`). The same call resumes an interrupted study. `again`: repeat
    finished runs that were made with other inputs, libraries or threads; without it they are an error. `listener`
    receives every event. `least_chance`: end after the search if no arm has this chance of an answer. Raises UserError
    before training if the study cannot run, and KeyboardInterrupt after a Ctrl-C or SIGTERM, once the current run is
    saved.
    """
    require_one_set(study)
    check_asked(study)
    ledger = begin(study, out)
    study = of_its_time(study, ledger)
    with exclusive(ledger.folder) as lock:
        ledger.sweep()
        inputs = InputFiles.of(study, ledger.folder)
        with LocalExecutor((lock,)) as executor:
            work = Work(Attempts(executor, ledger, study.machine, listener), inputs)
            finished = run_missing(study, work, again, least_chance)
        tidy(ledger, finished.study, finished.records)  # an earlier command may have ended before doing this
        deliver(ledger, finished.study, finished.records)
        record_looks(finished)
        return written(ledger, unfinished(finished))


class Work(NamedTuple):
    """How the runs of a study are made."""

    attempts: Attempts
    inputs: InputFiles

    def run(self, spec: RunSpec, data_key: str) -> RunRecord:
        """Record of a run that read the study's original inputs. Raises StudyError if they changed."""
        self.inputs.require_same()
        ledger = self.attempts.ledger
        record = self.attempts.run(spec, ledger.data_folder(data_key))
        try:
            self.inputs.require_same("runs")
        except StudyError:
            ledger.forget(spec.run_id)  # which of the two files it read is not known
            raise
        return record


def run_missing(study: StudySpec, work: Work, again: bool, least_chance: float = 0.0) -> StudyState:
    """State of the study once every run that it asks for exists."""
    executor, ledger, listener = work.attempts.executor, work.attempts.ledger, work.attempts.listener
    listener(events.Preparing())
    data = load_data(ledger, ask.prepare(executor, study, ledger.folder / "data"))
    work.inputs.require_same()
    declared = resolve.resolve(study, data)
    check_asked(declared)
    ledger.require_space(disk_needed(declared, data))
    listener(events.Findings(findings=tuple(_as_told(finding) for finding in check_before(declared, data))))
    # lost runs are tried again: the cause may be gone
    stored = [r for r in ledger.records() if r.status not in LOST]
    require_declarations(ledger, stored)
    if not again:
        require_no_stale(declared, data, stored)
    listener(events.Planning())
    plan = planned(executor, ledger, declared, data, listener)
    declared = settled(declared, plan)
    if plan and not stored and (found := too_long(declared, plan)):
        listener(events.TooLong(sentence=found[0], versions=found[1]))
    ledger.store_study(declared)
    records = {r.run_id: r for r in stored}
    for run_id in records:
        ledger.clear(run_id)
    state = StudyState.of(declared, data, stored, ledger)
    while runs := next_runs(state) or undelivered(ledger, state):
        if any(spec.role == "confirm" for spec in runs):
            if is_hopeless(state, least_chance, listener):
                break
            declare(ledger, state, records.values())
        current = list(state.records)
        for number, spec in enumerate(runs):
            listener(begins(spec, state, current, len(runs) - number))
            records[spec.run_id] = work.run(spec, data.key)
            current = schedule.current(state.study, data, list(records.values()))
            tidy(ledger, state.study, current)
        state = StudyState.of(declared, data, list(records.values()), ledger)
    return state


def is_hopeless(state: StudyState, least_chance: float, listener: Listener) -> bool:
    """Tell the chances of an answer before the first test score of an arm; whether all are below what was asked."""
    if any(record.spec.role == "confirm" for record in state.records):
        return False
    found = prospects(state)
    hopeless = bool(found) and max(max(of.chances) for of in found) < least_chance
    if found:
        sentences = tuple(prospect(of) for of in found)
        listener(events.Prospects(prospects=found, sentences=sentences, is_hopeless=hopeless))
    return hopeless


def _as_told(finding: Finding) -> events.Remark:
    return events.Remark.model_validate(finding.model_dump())


def unfinished(state: StudyState) -> tuple[str, ...]:
    """One line for every requested run that gave no result."""
    return tuple(
        f"{record.spec.arm}, seed {record.spec.seed}: {record.status}" + (f" ({record.message})" * bool(record.message))
        for record in state.records
        if record.status in LOST
    )


def declare(ledger: Ledger, state: StudyState, records: Iterable[RunRecord]) -> None:
    """Store the study's declaration, unless an arm was already scored on test: then the earlier declaration counts."""
    is_scored = any(r.spec.role == "confirm" and r.status not in LOST for r in records)
    if ledger.declared() is None or not is_scored:
        ledger.declare(declarations(state.study, state.data))


def next_runs(state: StudyState) -> list[RunSpec]:
    """The next runs; those of a later look only once the verdicts of the one before are known."""
    runs = schedule.next_runs(state.study, state.data, state.records, ())
    if runs or len(state.study.looks) == 1:
        return runs
    return schedule.next_runs(state.study, state.data, state.records, going_on(state))


def record_looks(state: StudyState) -> None:
    """Count the study's looks in the ledger of test sets. If that fails, the report notes it."""
    with suppress(OSError, RuntimeError):
        test_sets.record(uses_in(read_looks(state, words_at)))


def begins(spec: RunSpec, state: StudyState, records: Sequence[RunRecord], waiting: int) -> events.Begin:
    """Start of a run: number of runs done, and expected if no search is extended and no arm needs a later look."""
    study, first = state.study, len(state.first_searches)
    trained = study.trained_arms
    trials = sum(sum(trials_of(study, arm, "least")) for arm in trained.values())
    expected = num_scored(study) + first + trials + len(trained) * study.looks[0]
    done = first + len(records)
    return events.Begin(spec=spec, done=done, expected=max(expected, done + waiting))
