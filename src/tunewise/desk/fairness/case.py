"""The input of a fairness rule, and the search for arms that differ from the others."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tunewise.desk.analysis.curves import LossPoint, share_of_training
from tunewise.desk.fairness.finding import Finding
from tunewise.desk.metrics.metrics import primary_metric, selection_metric
from tunewise.desk.protocol import confirmations, trials
from tunewise.records import DataSummary, RunRecord, TrainableSummary
from tunewise.spec.resolved import ResolvedStudy


@dataclass(frozen=True)
class Case:
    """Input of the rules. Before a study there are no records."""

    study: ResolvedStudy
    data: DataSummary
    records: Sequence[RunRecord] = ()  # the current ones, of any role
    stale: Sequence[RunRecord] = ()  # in the study folder, but with settings that have changed since
    reference_loss: float | None = None  # of the base or the head arm, on `valid`; what selection minimizes
    full_curve: Sequence[LossPoint] = ()  # the same loss of full by step, mean over its confirmed runs

    @cached_property
    def confirmed(self) -> Mapping[str, Sequence[RunRecord]]:
        """Confirmed runs by arm, in order of seed."""
        return confirmations.confirmed(self.study, self.records)

    @property
    def full(self) -> str | None:
        """The arm that the others are compared with."""
        return self.study.full_arm

    def trained_arms(self) -> list[str]:
        """The arms that this study trains."""
        return list(self.study.trained_arms)

    def trained(self) -> dict[str, list[RunRecord]]:
        """Confirmed runs that finished training, by arm."""
        found = {
            arm: [run for run in self.confirmed.get(arm, ()) if run.status == "done"] for arm in self.trained_arms()
        }
        return {arm: runs for arm, runs in found.items() if runs}

    def tuned(self, arm: str) -> TrainableSummary | None:
        """What the arm trains: as its runs report it, or as it was prepared."""
        run = next((run for run in self.confirmed.get(arm, ()) if run.tuned), None)
        return run.tuned if run else self.data.arms.get(arm)

    def margin_in_loss(self) -> float | None:
        """The margin in units of what selection minimizes; None if another metric is judged or no gain is known."""
        metric = selection_metric(self.study)
        if primary_metric(self.data.task, self.study.primary) != metric:
            return None
        margin = self.study.margin_in(metric)
        parts = [] if margin.absolute is None else [margin.absolute]
        if margin.share_of_gain is not None and self.full is not None and self.reference_loss is not None:
            losses = [trials.selection_loss(run) for run in self.confirmed.get(self.full, ())]
            gains = [self.reference_loss - loss for loss in losses if math.isfinite(loss)]
            parts += [margin.share_of_gain * max(0.0, sum(gains) / len(gains))] if gains else []
        return min(parts, default=None)

    def full_within_margin_after(self) -> float | None:
        """Share of its steps after which full was within the margin of its best validation score; None: not known.

        The margin is then as large as the loss from skipping the rest of full's training.
        """
        margin = self.margin_in_loss()
        return None if margin is None else share_of_training(self.full_curve, margin)

    def num_seeds(self) -> int:
        """Number of seeds for which every confirmed arm has a run; before the study, the planned number."""
        return min((len(runs) for runs in self.confirmed.values()), default=self.study.looks[-1])


Rule = Callable[[Case], Iterable[Finding]]


@dataclass(frozen=True)
class Unlike:
    """Arms whose runs differ in some respect from those of the arm they are compared with."""

    arms: tuple[str, ...]
    evidence: str  # every arm's values


def unlike(case: Case, value: Callable[[RunRecord], str]) -> Unlike | None:
    """Arms in which `value` differs from full (from the first arm if there is no full) at a seed that both have.

    None: there are none. Runs that did not finish training are left out; another rule reports them.
    """
    seen = {arm: {run.spec.seed: value(run) for run in runs} for arm, runs in case.trained().items()}
    if len(seen) < 2:
        return None
    against = seen[case.full if case.full in seen else next(iter(seen))]
    # tokens may differ between seeds, and an arm decided at the first look has fewer seeds
    differing = tuple(
        arm for arm, values in seen.items() if any(values[seed] != against[seed] for seed in values.keys() & against)
    )
    if not differing:
        return None
    found = {arm: " / ".join(sorted(set(values.values()))) for arm, values in seen.items()}
    return Unlike(differing, "; ".join(f"{arm}: {values}" for arm, values in found.items()))
