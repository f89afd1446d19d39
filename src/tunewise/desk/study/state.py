"""The state of a study: its current records and its resolved spec, built in one place."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tunewise.desk.analysis.curves import LossPoint, mean_losses
from tunewise.desk.analysis.forgetting import Point
from tunewise.desk.metrics.metrics import compute, metric_named
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.planning.budget import within_budget
from tunewise.desk.protocol import confirmations, resolve, schedule
from tunewise.desk.protocol.ranks import rank_curves
from tunewise.desk.statistics.rank_curve import RankCurve
from tunewise.desk.study.run_files import RunFiles
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import TASKS, Quantization
from tunewise.spec.resolved import ResolvedStudy
from tunewise.storage.ledger import Ledger


@dataclass(frozen=True)
class StudyState:
    """A study, reduced to its budget and with ranks chosen by its trials, and its current records or some of them."""

    study: ResolvedStudy
    data: DataSummary
    records: Sequence[RunRecord]  # of any role
    files: RunFiles  # what these runs measured
    searched: ResolvedStudy  # the study before its own trials chose the rank of an arm
    budget: str | None  # what was reduced to fit the study's budget
    rank_curves: Mapping[str, RankCurve]  # of the arms whose rank was chosen by one
    first_searches: Sequence[RunRecord]  # of these arms, at their highest rank
    stale: Sequence[RunRecord]  # in the folder, but with settings that have changed since

    @classmethod
    def of(cls, study: ResolvedStudy, data: DataSummary, stored: Sequence[RunRecord], ledger: Ledger) -> "StudyState":
        """The state of a resolved study; `stored` are the records in its folder, of this study or of others.

        The ledger is asked only for what the runs measured. Raises StudyError if a file of scores is damaged.
        """
        files = RunFiles(ledger)
        plan = within_budget(study, data, stored)
        searched = plan.study if plan else study
        first = schedule.current(searched, data, stored)
        curves = rank_curves(searched, data, first, files.scores)
        settled = resolve.settle(searched, first, {arm: curve.candidate for arm, curve in curves.items()})
        records = schedule.current(settled, data, stored) if curves else first
        kept = {record.run_id for record in records}
        known = kept | {record.run_id for record in first}
        return cls(
            study=settled,
            data=data,
            records=tuple(records),
            files=files,
            searched=searched,
            budget=plan.sentence if plan else None,
            rank_curves=curves,
            first_searches=tuple(record for record in first if record.run_id not in kept),
            stale=tuple(record for record in stored if record.run_id not in known),
        )

    @classmethod
    def read(cls, ledger: Ledger) -> "StudyState":
        """The state of a study folder. Raises StudyError if it holds no prepared data, or something is damaged."""
        data, stored = ledger.data_summary(), ledger.records()
        declared = resolve.resolve(ledger.study(), data)
        return cls.of(declared, data, stored, ledger)

    def asked_for(self, going: confirmations.GoingOn) -> "StudyState":
        """The state with the records that the protocol requested, if these arms go on after each interim look."""
        return replace(self, records=confirmations.asked_for(self.study, self.records, going))

    def of_arms(self, arms: Sequence[str]) -> "StudyState":
        """The state with the records of the base and of `arms` only."""
        return replace(self, records=[r for r in self.records if r.spec.role == "base" or r.spec.arm in arms])

    @cached_property
    def confirmed(self) -> dict[str, list[RunRecord]]:
        """Confirmed runs per arm, in order of seed."""
        return confirmations.confirmed(self.study, self.records)

    @cached_property
    def base(self) -> RunRecord | None:
        """The scored untouched base, whole; None: not done."""
        return self.bases.get(None)

    @cached_property
    def bases(self) -> dict[Quantization | None, RunRecord]:
        """The scored untouched base by how it is stored (None: whole), as far as that is done."""
        return {r.spec.method.quantized: r for r in self.records if r.spec.role == "base" and r.status == "done"}

    @property
    def full(self) -> str | None:
        """The arm that the others are compared with; None: there is none."""
        return self.study.full_arm

    def scores(self, runs: Iterable[RunRecord], split: str = "test") -> list[Scores]:
        """One Scores per run, in order; each file is read once. Raises StudyError if it is not valid."""
        return self.files.scores(runs, split)

    # --- curves

    @cached_property
    def curves(self) -> dict[str, list[list[Point]]]:
        """Measurements on general text during training per arm and run, of arms that have any."""
        curves = {arm: [self.files.forgetting(run) for run in runs] for arm, runs in self.confirmed.items()}
        return {arm: runs for arm, runs in curves.items() if any(runs)}

    @cached_property
    def loss_curves(self) -> dict[str, list[list[LossPoint]]]:
        """Validation NLL by step per arm and confirmed run, at all measured steps; empty: not measured."""
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
        """The curve starting at step 0, where the untrained model is the base; empty if nothing was measured."""
        if self.base is None or not measured:
            return measured
        value = compute(metric, self.scores([self.base], "valid")[0])
        return [LossPoint(0, 1 - value if metric_named(metric).higher_is_better else value), *measured]

    def selection_curve(self, arm: str) -> tuple[LossPoint, ...]:
        """The loss that selection minimizes (NLL, or the share of wrong rows) by step, averaged over runs."""
        if self.study.select_by:
            return self._wrong_texts(arm)
        if not TASKS[self.data.task].has_classes:
            return mean_losses([run for run in self.loss_curves.get(arm, []) if run])
        measured = [
            [LossPoint(e.step, 1 - e.accuracy) for e in run.evaluations if e.accuracy is not None]
            for run in self.confirmed.get(arm, [])
        ]
        return mean_losses([self._with_base("accuracy", run) for run in measured if run])

    def _wrong_texts(self, arm: str) -> tuple[LossPoint, ...]:
        """Share of validation rows with a wrong text by step, from that of the base on, averaged over runs."""
        before = self.base.evaluations if self.base else ()
        return mean_losses(
            [
                [LossPoint(e.step, 1 - e.accuracy) for e in (*before, *run.evaluations) if e.accuracy is not None]
                for run in self.confirmed.get(arm, [])
                if run.evaluations
            ]
        )
