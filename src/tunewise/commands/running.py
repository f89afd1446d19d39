"""The loop of the driver: start what the schedule asks for wherever a place is free, until no run is missing."""

from collections.abc import Iterable, Sequence

from tunewise.commands.deliver import tidy, undelivered
from tunewise.desk.planning.budget import versions
from tunewise.desk.planning.expected import num_scored, trials_of
from tunewise.desk.protocol import schedule
from tunewise.desk.report.sentences import prospect
from tunewise.desk.study.declarations import declarations
from tunewise.desk.study.prospects import prospects
from tunewise.desk.study.state import StudyState
from tunewise.desk.study.verdicts import going_on
from tunewise.errors import StudyError
from tunewise.executors.places import Places
from tunewise.inputs.input_files import InputFiles
from tunewise.records import LOST, DataSummary, RunRecord, events
from tunewise.records.events import Listener
from tunewise.spec import RunSpec
from tunewise.spec.resolved import ResolvedStudy
from tunewise.storage.ledger import Ledger


class Running:
    """The runs of a study being made. `stored` are the records that its folder holds already."""

    def __init__(
        self,
        study: ResolvedStudy,
        data: DataSummary,
        places: Places,
        inputs: InputFiles,
        stored: Iterable[RunRecord],
        least_chance: float = 0.0,
    ) -> None:
        self.study, self.data, self.places, self.inputs = study, data, places, inputs
        self.ledger, self.listener, self.least_chance = places.ledger, places.listener, least_chance
        self.records = {record.run_id: record for record in stored}
        self.state = self._state()

    def finish(self) -> StudyState:
        """State of the study once every run that it asks for exists.

        The schedule is asked again when all that it asked for has started, so that one place makes runs in its order.
        """
        waiting, has_news = self._asked(), False
        while waiting or self.places.under_way:
            if waiting and self.places.may_start(waiting[0]):
                self._start(waiting.pop(0), len(waiting))
            else:
                self._take(self.places.ended())
                has_news = True
            if has_news and not waiting and len(self.places.under_way) < self.places.num_places:
                self.state = self._state()
                waiting, has_news = self._asked(), False
        return self.state

    def _state(self) -> StudyState:
        return StudyState.of(self.study, self.data, list(self.records.values()), self.ledger)

    def _asked(self) -> list[RunSpec]:
        """Runs to start now; none if all are under way, or the study is complete or hopeless."""
        under_way = self.places.under_way
        asked = next_runs(self.state)
        if not asked and not under_way:
            asked = undelivered(self.ledger, self.state)
        waiting = [spec for spec in asked if spec.run_id not in under_way]
        if any(spec.role == "confirm" for spec in waiting):
            if is_hopeless(self.state, self.least_chance, self.listener):
                return []
            declare(self.ledger, self.state, self.records.values())
        return waiting

    def _start(self, spec: RunSpec, still_waiting: int) -> None:
        under_way = len(self.places.under_way)
        self.listener(begins(spec, self.state, self._current(), under_way + 1 + still_waiting))
        self.inputs.require_same()
        self.places.start(spec, self.ledger.data_folder(self.data.key))

    def _take(self, record: RunRecord | None) -> None:
        """Keep the record of a run that read the study's original inputs. Raises StudyError if they changed."""
        ended = [] if record is None else [record.run_id]
        try:
            self.inputs.require_same("runs")
        except StudyError:
            doubtful = [*ended, *self.places.under_way]
            self.places.abandon()
            for run_id in doubtful:  # which of the two files it read is not known
                self.ledger.forget(run_id)
            raise
        if record is not None:
            self.records[record.run_id] = record
            tidy(self.ledger, self.state.study, self._current())

    def _current(self) -> list[RunRecord]:
        return schedule.current(self.state.study, self.data, list(self.records.values()))


def next_runs(state: StudyState) -> list[RunSpec]:
    """All runs that may be under way now; those of a later look only once the verdicts of the one before are known.

    Before a budget is known to suffice for more, only those of the smallest version of the study.
    """
    study = state.study
    if study.budget and state.budget is None:
        *_, study = versions(study)
    runs = schedule.next_runs(study, state.data, state.records, ())
    if runs or len(study.looks) == 1:
        return runs
    return schedule.next_runs(study, state.data, state.records, going_on(state))


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


def declare(ledger: Ledger, state: StudyState, records: Iterable[RunRecord]) -> None:
    """Store the study's declaration, unless an arm was already scored on test: then the earlier declaration counts."""
    is_scored = any(r.spec.role == "confirm" and r.status not in LOST for r in records)
    if ledger.declared() is None or not is_scored:
        ledger.declare(declarations(state.study, state.data))


def begins(spec: RunSpec, state: StudyState, records: Sequence[RunRecord], waiting: int) -> events.Begin:
    """Start of a run: number of runs done, and expected if no search is extended and no arm needs a later look."""
    study, first = state.study, len(state.first_searches)
    trained = study.trained_arms
    trials = sum(sum(trials_of(study, arm, "least")) for arm in trained.values())
    expected = num_scored(study) + first + trials + len(trained) * study.looks[0]
    done = first + len(records)
    return events.Begin(spec=spec, done=done, expected=max(expected, done + waiting))
