"""What a fairness rule looks at, and how it asks which arms are unlike the others."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tunewise.desk.analysis.curves import LossPoint, share_of_training
from tunewise.desk.fairness.finding import Finding
from tunewise.desk.protocol import confirmations, trials
from tunewise.desk.statistics.metrics import primary_metric
from tunewise.records import DataSummary, RunRecord, TrainableSummary
from tunewise.spec.resolved import ResolvedStudy


@dataclass(frozen=True)
class Case:
    """What the rules look at. Before a study there are no records."""

    study: ResolvedStudy
    data: DataSummary
    records: Sequence[RunRecord] = ()  # the current ones, of any role
    stale: Sequence[RunRecord] = ()  # in the study folder, but of another study: settings that were changed since
    reference_loss: float | None = None  # what selection minimises, of the base (of the head arm) on valid
    full_curve: Sequence[LossPoint] = ()  # the same of full by step, mean over its confirmed runs

    @cached_property
    def confirmed(self) -> Mapping[str, Sequence[RunRecord]]:
        """The confirmed runs by arm, by rising seed."""
        return confirmations.confirmed(self.study, self.records)

    @property
    def full(self) -> str | None:
        """The arm that the others are compared with."""
        return self.study.full_arm

    def trained_arms(self) -> list[str]:
        """The arms that this study trains."""
        return list(self.study.trained_arms)

    def trained(self) -> dict[str, list[RunRecord]]:
        """The confirmed runs that trained to the end, by arm."""
        found = {
            arm: [run for run in self.confirmed.get(arm, ()) if run.status == "done"] for arm in self.trained_arms()
        }
        return {arm: runs for arm, runs in found.items() if runs}

    def tuned(self, arm: str) -> TrainableSummary | None:
        """What the arm trains: as its runs report it, or as it was prepared."""
        run = next((run for run in self.confirmed.get(arm, ()) if run.tuned), None)
        return run.tuned if run else self.data.arms.get(arm)

    def margin_in_loss(self) -> float | None:
        """The margin in units of what selection minimises; None where another metric is judged, or no gain is known."""
        metric = primary_metric(self.data.task)
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
        """The share of its steps after which full itself was within the margin of its best on valid; None: not known.

        It says what the margin means: a loss as large as leaving out the rest of full's training.
        """
        margin = self.margin_in_loss()
        return None if margin is None else share_of_training(self.full_curve, margin)

    def num_seeds(self) -> int:
        """Seeds on which every confirmed arm has a run; before the study, those that are planned."""
        return min((len(runs) for runs in self.confirmed.values()), default=self.study.looks[-1])


Rule = Callable[[Case], Iterable[Finding]]


@dataclass(frozen=True)
class Unlike:
    """Arms whose runs differ in something from those of the arm they are compared with."""

    arms: tuple[str, ...]
    evidence: str  # every arm's values


def unlike(case: Case, value: Callable[[RunRecord], str]) -> Unlike | None:
    """The arms in which `value` is not what it is in full (in the first arm, where there is no full); None: none.

    Runs that did not train to the end are left out: what they lack is told by another rule.
    """
    seen = {arm: sorted({value(run) for run in runs}) for arm, runs in case.trained().items()}
    if len(seen) < 2:
        return None
    against = case.full if case.full in seen else next(iter(seen))
    differing = tuple(arm for arm, values in seen.items() if values != seen[against])
    if not differing:
        return None
    return Unlike(differing, "; ".join(f"{arm}: {' / '.join(values)}" for arm, values in seen.items()))
