"""A study folder as the report reads it: records by arm, and their scores, each file read once."""

from collections.abc import Iterable, Sequence
from functools import cached_property, partial

from tunewise.desk.analysis.costs import TimedRun, usual_step
from tunewise.desk.analysis.curves import LossPoint, TimedCurve, ToQuality, mean_losses, to_quality
from tunewise.desk.analysis.forgetting import AtEqualQuality, Point, equal_quality, read_curve
from tunewise.desk.planning.budget import within_budget
from tunewise.desk.protocol import confirmations, resolve, schedule
from tunewise.desk.protocol.ranks import rank_curves
from tunewise.desk.statistics.metrics import compute, metric_named
from tunewise.desk.statistics.rank_curve import RankCurve
from tunewise.desk.statistics.scores import Rows, Scores, StoredScores, read_scores
from tunewise.desk.study.declarations import changed
from tunewise.records import DataSummary, RunRecord
from tunewise.records.plan import StudyPlan
from tunewise.spec import TASKS, StudySpec
from tunewise.storage.ledger import Ledger

MOST_HELD = 4 * 2**20  # bytes of class probabilities of one run that stay in memory


class StudyFolder:
    """The current records of a study folder, or some of them, by arm and role, and their scores."""

    def __init__(self, ledger: Ledger, study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> None:
        self.ledger, self.study, self.data, self.records = ledger, study, data, records
        self.stale: list[RunRecord] = []  # in the folder, but of another study: settings that were changed since
        self.confirmed = confirmations.confirmed(study, records)
        self.base = next((r for r in records if r.spec.role == "base" and r.status == "done"), None)
        self.full = study.full_arm
        self.searched = study  # as it was before its own trials told the rank of an arm
        self.rank_curves: dict[str, RankCurve] = {}  # of the arms whose rank was chosen by one
        self.first_searches: list[RunRecord] = []  # of these arms, at their highest rank
        self.budget: str | None = None  # what was cut down to fit into the study's budget
        self.plan: StudyPlan | None = None  # what the runs were expected to need; None: not planned
        self._scores: dict[tuple[str, str], Scores] = {}
        self._rows: dict[str, Rows] = {}  # of the splits in _scores
        self._steps: dict[str, list[dict[str, float]]] = {}

    @classmethod
    def read(cls, ledger: Ledger) -> "StudyFolder":
        """The folder with all of its current records. Raises StudyError where it holds no prepared data."""
        data = ledger.data_summary()
        stored = ledger.records()
        declared = resolve.resolve(ledger.study(), data)
        plan = within_budget(declared, data, stored)
        study = plan.study if plan else declared
        found = cls(ledger, study, data, schedule.current(study, data, stored)).settled(stored)
        found.budget = plan.sentence if plan else None
        found.plan = ledger.plan(data.key, declared)
        return found

    def settled(self, stored: Sequence[RunRecord]) -> "StudyFolder":
        """The same folder with every `rank: auto` whose search is over replaced by its candidate.

        `stored` are all records of the folder, from which those at the candidates are taken.
        """
        curves = rank_curves(self.study, self.data, self.records, self.scores)
        study = resolve.settle(self.study, self.records, {arm: curve.candidate for arm, curve in curves.items()})
        found = StudyFolder(self.ledger, study, self.data, schedule.current(study, self.data, stored))
        found.searched, found.rank_curves = self.study, curves
        found._scores, found._rows = self._scores, self._rows
        settled = {record.run_id for record in found.records}
        found.first_searches = [record for record in self.records if record.run_id not in settled]
        known = settled | {record.run_id for record in found.first_searches}
        found.stale = [record for record in stored if record.run_id not in known]
        return found

    def asked_for(self, undecided: Sequence[str]) -> "StudyFolder":
        """The same folder with the records that the protocol asked for, `undecided` going on to the second look."""
        return self._with(confirmations.asked_for(self.study, self.records, undecided))

    def of_arms(self, arms: Sequence[str]) -> "StudyFolder":
        """The same folder with the records of the base and of `arms` alone."""
        return self._with([r for r in self.records if r.spec.role == "base" or r.spec.arm in arms])

    def _with(self, records: Sequence[RunRecord]) -> "StudyFolder":
        some = StudyFolder(self.ledger, self.study, self.data, records)
        some.stale, some.budget, some.plan, some.searched = self.stale, self.budget, self.plan, self.searched
        some.rank_curves, some.first_searches = self.rank_curves, self.first_searches
        some._scores, some._rows, some._steps = self._scores, self._rows, self._steps
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

    @cached_property
    def loss_curves(self) -> dict[str, list[list[LossPoint]]]:
        """Per arm and confirmed run the loss (NLL) on valid by step, as finely as it was measured; empty: nothing."""
        if self.curves:
            return {
                arm: [[LossPoint(p.step, p.valid_nll) for p in run] for run in runs]
                for arm, runs in self.curves.items()
            }
        return {
            arm: [self._with_base("nll", [LossPoint(e.step, e.nll) for e in run.evaluations]) for run in runs]
            for arm, runs in self.confirmed.items()
        }

    def _with_base(self, metric: str, measured: list[LossPoint]) -> list[LossPoint]:
        """The curve from step 0 on, where the untrained model is the base; nothing where nothing was measured."""
        if self.base is None or not measured:
            return measured
        value = compute(metric, self.scores([self.base], "valid")[0])
        return [LossPoint(0, 1 - value if metric_named(metric).higher_is_better else value), *measured]

    def selection_curve(self, arm: str) -> tuple[LossPoint, ...]:
        """What selection minimises (NLL, for a classification the error rate) by step, mean over an arm's runs."""
        if not TASKS[self.data.task].has_classes:
            return mean_losses([run for run in self.loss_curves.get(arm, []) if run])
        measured = [
            [LossPoint(e.step, 1 - e.accuracy) for e in run.evaluations if e.accuracy is not None]
            for run in self.confirmed.get(arm, [])
        ]
        return mean_losses([self._with_base("accuracy", run) for run in measured if run])

    @cached_property
    def to_quality(self) -> dict[str, ToQuality]:
        """Steps and seconds to a loss that every arm reaches; the head alone, which reaches little, does not count."""
        runs = {
            arm: [
                TimedCurve(points, usual_step(run.step_seconds))
                for points, run in zip(curves, self.timed(self.confirmed[arm]), strict=True)
            ]
            for arm, curves in self.loss_curves.items()
            if arm != self.study.reference_arm
        }
        return to_quality(runs)

    def timed(self, runs: Iterable[RunRecord]) -> list[TimedRun]:
        """The runs with the seconds of their steps."""
        return [TimedRun(run, tuple(step["seconds"] for step in self.steps(run))) for run in runs]

    def steps(self, run: RunRecord) -> list[dict[str, float]]:
        """The optimizer steps of a run; its file is read once."""
        if run.run_id not in self._steps:
            self._steps[run.run_id] = self.ledger.steps(run.run_id)
        return self._steps[run.run_id]

    def scores(self, runs: Iterable[RunRecord], split: str = "test") -> list[Scores]:
        """One Scores per run, in order; each file is read once."""
        return [self._read(run.run_id, split) for run in runs]

    def _read(self, run_id: str, split: str) -> Scores:
        if (run_id, split) not in self._scores:
            read = partial(read_scores, self.ledger.scores_path(run_id), split, self._rows)
            scores = read()
            is_large = scores.class_log_probabilities.nbytes > MOST_HELD
            self._scores[run_id, split] = StoredScores(scores, read) if is_large else scores
        return self._scores[run_id, split]
