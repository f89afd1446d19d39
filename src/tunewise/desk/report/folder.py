"""A study folder as the report reads it: records by arm, and their scores, each file read once."""

from collections.abc import Iterable, Sequence
from functools import cached_property

from tunewise.desk import schedule
from tunewise.desk.budget import within_budget
from tunewise.desk.declarations import changed
from tunewise.desk.forgetting import AtEqualQuality, Point, equal_quality, read_curve
from tunewise.desk.metrics import Scores, read_scores
from tunewise.ledger import Ledger
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import StudySpec


class StudyFolder:
    """The current records of a study folder, or some of them, by arm and role, and their scores."""

    def __init__(self, ledger: Ledger, study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> None:
        self.ledger, self.study, self.data, self.records = ledger, study, data, records
        self.stale: list[RunRecord] = []  # in the folder, but of another study: settings that were changed since
        self.confirmed = schedule.confirmed(study, records)
        self.base = next((r for r in records if r.spec.role == "base" and r.status == "done"), None)
        self.full = schedule.full_arm(study)
        self.budget: str | None = None  # what was cut down to fit into the study's budget
        self._scores: dict[tuple[str, str], Scores] = {}

    @classmethod
    def read(cls, ledger: Ledger) -> "StudyFolder":
        """The folder with all of its current records. Raises StudyError where it holds no prepared data."""
        data = ledger.data_summary()
        stored = ledger.records()
        declared = schedule.resolve(ledger.study(), data)
        plan = within_budget(declared, data, stored)
        study = plan.study if plan else declared
        found = cls(ledger, study, data, schedule.current(study, data, stored))
        found.budget = plan.sentence if plan else None
        known = {record.run_id for record in found.records}
        found.stale = [record for record in stored if record.run_id not in known]
        return found

    def asked_for(self, undecided: Sequence[str]) -> "StudyFolder":
        """The same folder with the records that the protocol asked for, `undecided` going on to the second look."""
        return self._with(schedule.asked_for(self.study, self.records, undecided))

    def of_arms(self, arms: Sequence[str]) -> "StudyFolder":
        """The same folder with the records of the base and of `arms` alone."""
        return self._with([r for r in self.records if r.spec.role == "base" or r.spec.arm in arms])

    def _with(self, records: Sequence[RunRecord]) -> "StudyFolder":
        some = StudyFolder(self.ledger, self.study, self.data, records)
        some.stale, some.budget, some._scores = self.stale, self.budget, self._scores
        return some

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """The declarations that were changed after the first test score."""
        return changed(self.ledger.declared(), self.study, self.data)

    @cached_property
    def curves(self) -> dict[str, list[list[Point]]]:
        """Per arm and run what was measured on general text during training, of the arms where something was."""
        curves = {
            arm: [read_curve(self.ledger.forgetting_path(r.run_id)) for r in runs]
            for arm, runs in self.confirmed.items()
        }
        return {arm: runs for arm, runs in curves.items() if any(runs)}

    @cached_property
    def equal_quality(self) -> dict[str, AtEqualQuality]:
        """Forgetting at equal quality, of the arms in `curves`."""
        return equal_quality(self.curves)

    def scores(self, runs: Iterable[RunRecord], split: str = "test") -> list[Scores]:
        """One Scores per run, in order; each file is read once."""
        return [self._read(run.run_id, split) for run in runs]

    def _read(self, run_id: str, split: str) -> Scores:
        if (run_id, split) not in self._scores:
            self._scores[run_id, split] = read_scores(self.ledger.scores_path(run_id), split)
        return self._scores[run_id, split]
