"""The verdict on the mean of several datasets, each of which is a study with its own search, runs and report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from tunewise.desk.fairness import Finding
from tunewise.desk.metrics.metrics import judged_metrics
from tunewise.desk.statistics.comparison import Comparison
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.look import LAST
from tunewise.desk.statistics.mean_of_sets import MeanOfSets
from tunewise.desk.statistics.multiplicity import holm_levels
from tunewise.desk.statistics.power import ONE_SIDED_ERROR
from tunewise.desk.statistics.verdict import Levels, Outcome, Verdict, Word, both_metrics
from tunewise.desk.study.looks import Reading
from tunewise.desk.study.verdicts import comparison, findings_of
from tunewise.spec import Frozen

FIELDS: dict[Word, str] = {"better": "better", "as good": "as_good", "worse": "worse"}


class OfSet(Estimate):
    """The verdict of one set; the estimate is arm - full."""

    outcome: Outcome


class MeanVerdict(Frozen):
    """The verdict on one arm in one metric, on the mean of all sets. `difference`, `low` and `high` are arm - full."""

    arm: str
    against: str
    metric: str
    is_of_new_sets: bool  # for new datasets of the same kind; otherwise for these datasets only
    difference: float  # mean over the sets
    low: float | None  # None: a set has no interval
    high: float | None
    confidence: float
    num_compared: int  # comparisons among which Holm divides the level
    margin: str  # as text
    outcome: Outcome
    reason: Literal["interval", "blocked", "declarations changed"] | None  # why it is inconclusive; None: it is not
    blocked_by: dict[str, tuple[str, ...]]  # set -> what withholds the verdict
    by_set: dict[str, OfSet]


def mean_verdicts(readings: Mapping[str, Reading]) -> tuple[MeanVerdict, ...]:
    """One verdict per arm in question and metric, that of the primary metric first; the sets' looks are complete.

    Arms that have no verdict in some set are left out.
    """
    first = next(iter(readings.values())).state.study
    seeds = first.looks[-1]
    look = replace(LAST, seeds=seeds, last=seeds)
    of_sets = {name: {verdict.arm: verdict for verdict in of.verdicts} for name, of in readings.items()}
    arms = [arm for arm in first.compared_arms if all(arm in found for found in of_sets.values())]
    asked = []
    for arm in arms:
        for metric in judged_metrics(first):
            compared = {name: comparison(of.state, arm, metric, look) for name, of in readings.items()}
            own = {name: _in_metric(found[arm], metric) for name, found in of_sets.items()}
            asked.append(_Asked(compared, own, {name: findings_of(of.state) for name, of in readings.items()}))
    return decide_means(asked, ONE_SIDED_ERROR / first.studies_per_test_set)


def _in_metric(verdict: Verdict, metric: str) -> Verdict:
    return next(of for of in both_metrics(verdict) if of.metric == metric)


class _Asked:
    """One arm in one metric, in every set."""

    def __init__(
        self,
        compared: Mapping[str, Comparison],
        own: Mapping[str, Verdict],
        findings: Mapping[str, Sequence[Finding]],
    ) -> None:
        self.own = own
        self.blocked = {name: (of.blocked,) for name, of in compared.items() if of.blocked}
        self._findings = findings
        self.difference: MeanOfSets | None = None
        if not self.blocked:
            claims = [of.claims() for of in compared.values()]
            self.difference = MeanOfSets.of([of.difference for of in compared.values()])
            self._better = MeanOfSets.of([of.better for of in claims])
            self._as_good = [MeanOfSets.of(part) for part in zip(*(of.as_good for of in claims), strict=True)]
            self._worse = [MeanOfSets.of(part) for part in zip(*(of.worse for of in claims), strict=True)]

    def p_values(self) -> dict[Word, float]:
        """The smallest one-sided level at which each outcome would be given."""
        if self.difference is None:
            return dict.fromkeys(FIELDS, 1.0)
        exceeded = min(part.probability_of_positive() for part in self._worse)
        return {
            "better": self._better.probability_of_negative(),
            "as good": max(part.probability_of_negative() for part in self._as_good),
            "worse": min(1.0, len(self._worse) * exceeded),
        }

    def forbidden(self, word: Word) -> dict[str, tuple[str, ...]]:
        """Set -> the fairness rules that forbid this outcome there."""
        found = {}
        for name, own in self.own.items():
            concerned = [of for of in self._findings[name] if of.concerns(own.arm, own.against) and word in of.forbids]
            if concerned:
                found[name] = tuple(of.id for of in concerned)
        return found


def decide_means(asked: Sequence[_Asked], level: float) -> tuple[MeanVerdict, ...]:
    """One verdict per comparison, each outcome at its Holm level among them."""
    p_values = [one.p_values() for one in asked]
    levels = [Levels() for _ in asked]
    for word, field in FIELDS.items():
        found = holm_levels(np.array([of[word] for of in p_values]), level) if asked else ()
        levels = [replace(of, **{field: float(own)}) for of, own in zip(levels, found, strict=True)]
    return tuple(
        _verdict(one, of, of_levels, len(asked)) for one, of, of_levels in zip(asked, p_values, levels, strict=True)
    )


def _verdict(one: _Asked, p_values: Mapping[Word, float], levels: Levels, num_compared: int) -> MeanVerdict:
    own = next(iter(one.own.values()))
    reached: list[Word] = [word for word in FIELDS if p_values[word] <= levels.of(word)]
    blocked = one.blocked or (one.forbidden(reached[0]) if reached else {})
    outcome: Outcome = "undecided" if blocked or not reached else reached[0]
    confidence = 1 - 2 * levels.of(outcome)
    low, high = one.difference.interval(confidence) if one.difference else (None, None)
    return MeanVerdict(
        arm=own.arm,
        against=own.against,
        metric=own.metric,
        is_of_new_sets=one.difference is not None and one.difference.is_of_new_sets,
        difference=float(np.mean([of.difference for of in one.own.values()])),
        low=low,
        high=high,
        confidence=confidence,
        num_compared=num_compared,
        margin=own.margin,
        outcome=outcome,
        reason="blocked" if blocked else "interval" if outcome == "undecided" else None,
        blocked_by={name: tuple(map(str, why)) for name, why in blocked.items()},
        by_set={
            name: OfSet(outcome=of.outcome, estimate=of.difference, low=of.low, high=of.high)
            for name, of in one.own.items()
        },
    )
