"""The verdict on an arm vs. full fine-tuning: better, as good within the margin, worse, or inconclusive.

The quality loss (`harm` in code) is arm - full for losses and full - arm for scores, so that positive is worse. Each
outcome is a test on the printed interval, with a one-sided error of (1 - confidence) / 2:

- better: the interval shows that the quality loss is below 0;
- as good: it shows that the quality loss is below the margin;
- worse: it shows that the quality loss is above the margin;
- inconclusive (the value `undecided`): it shows none of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tunewise.desk.statistics.intervals import Components, Estimate
from tunewise.desk.statistics.power import ONE_SIDED_ERROR, Needed
from tunewise.spec import Frozen

Word = Literal["better", "as good", "worse"]
Outcome = Literal["better", "as good", "worse", "undecided"]
Remark = Literal[
    "equivalent",  # neither better nor worse by as much as the margin
    "measurably worse, within the margin",
    "worse than full, by how much is open",
]
Reason = Literal[
    "seeds",  # fewer than MIN_SEEDS
    "units",  # fewer than MIN_UNITS
    "identical",  # all differences are equal, as if one run had two names
    "optimum not bracketed",
    "headroom",  # another learning rate may gain more than a quarter of the margin, enough to reverse the verdict
    "full gains nothing measurable here",  # which makes a share of its gain meaningless
    "skew",  # too few units carry the quality loss or gain: an end reaches further, and now too far
    "interval",  # it contains what it would have to exclude
    "declarations changed",  # after the first test score: the report is exploratory
    "blocked",  # a fairness rule withholds the verdict
]
Lean = Literal["leans better", "leans worse", "no lean"]


@dataclass(frozen=True)
class RateSearch:
    """Open questions after the search for learning rates."""

    unbracketed: tuple[str, ...] = ()  # those of arm and full whose best rate was the lowest or highest one tried
    headroom_of_arm: float | None = None  # what a rate between those tried may gain, in units of the metric
    headroom_of_full: float | None = None  # None: not estimated


@dataclass(frozen=True)
class Levels:
    """One-sided error of every outcome; differs from the default if several arms are compared (`multiplicity.py`)."""

    better: float = ONE_SIDED_ERROR
    as_good: float = ONE_SIDED_ERROR
    worse: float = ONE_SIDED_ERROR

    def of(self, outcome: "Outcome") -> float:
        """The level of an outcome; if it is inconclusive, the strictest level, whose interval is widest."""
        strictest = min(self.better, self.as_good, self.worse)
        return {"better": self.better, "as good": self.as_good, "worse": self.worse}.get(outcome, strictest)


NOTHING_LEFT_OPEN = RateSearch()
ONE_ARM = Levels()


class Verdict(Frozen):
    """The verdict on one arm, in units of the metric. `difference`, `low` and `high` are arm - full in every metric."""

    arm: str
    against: str
    metric: str
    difference: float  # the arm's mean over seeds minus full's
    low: float | None  # of the two-sided interval at `confidence`, for new seeds and new units
    high: float | None
    confidence: float  # 0.95, or more by Holm if several arms are compared with full
    num_compared: int  # comparisons (arms by metrics) among which Holm divides the level
    standard_error: float | None
    degrees_of_freedom: float | None
    components: Components | None  # of the squared standard error
    margin: str  # as text
    margin_absolute: float | None  # in units of the metric; None: not part of the margin
    margin_share_of_gain: float | None
    smallest_margin_as_good: float | None  # absolute, above which the arm is as good; None: a verdict is blocked
    share_excess: Estimate | None  # quality loss minus that share of the gain: within the margin if high < 0
    gain: Estimate  # of full over the base with its 95% interval, positive: full is better
    gain_kept: Estimate | None  # share of the gain that the arm keeps; None: not measurable
    perplexity_ratio: Estimate | None  # arm / full; None: the metric is not nll, or too large to write
    outcome: Outcome
    remark: Remark | None
    reason: Reason | None  # why the verdict is inconclusive; None: it is not
    lean: Lean | None  # of these runs alone, if there are too few seeds for a verdict
    unbracketed: tuple[str, ...]  # arms whose best learning rate was the lowest or highest one tried
    headroom_of_arm: float | None  # what another learning rate may gain, in units of the metric; None: not estimated
    headroom_of_full: float | None
    harmful_units: tuple[str, ...]  # if skew withholds "better" or "as good": the units with the largest quality loss
    beneficial_units: tuple[str, ...]  # if skew withholds "worse": the units with the largest quality gain
    num_seeds: int
    num_units: int
    effective_units: float  # number of equal units that weigh as much; as many as `num_units` if all are equal
    num_rows: int
    chance_at_last: float | None  # of an outcome at the last look, if inconclusive at an interim one; None: not asked
    would_decide: Needed | None  # what a new study needs; None: decided, or more data is not what is missing
    blocked_by: tuple[str, ...] = ()  # fairness rules that withhold the verdict
    diverged_runs: dict[str, int] = {}  # arm -> confirmed runs that diverged, which count as scored
    far_runs: dict[str, tuple[int, ...]] = {}  # arm -> seeds that ended far from its others (analysis/failures.py)
    num_failed: int = 0  # runs of the arm that diverged or ended far from the others
    failing_share_bound: float | None = None  # 95% upper bound on the share of failing runs; None: no runs
    dropped_seeds: tuple[int, ...] = ()  # lost twice in some arm, and left out of all
    secondary: "Verdict | None" = None  # on the second metric, from the same runs; None: none is declared


def both_metrics(verdict: Verdict) -> tuple[Verdict, ...]:
    """The verdict, and that on the second metric if one is declared."""
    return (verdict,) if verdict.secondary is None else (verdict, verdict.secondary)


def margin_in_units(verdict: Verdict) -> float:
    """The smaller part of the margin in units of the metric, a share of the gain as estimated; 0: there is no gain."""
    share = verdict.margin_share_of_gain
    parts = [verdict.margin_absolute, share * verdict.gain.estimate if share is not None else None]
    return max(0.0, min(part for part in parts if part is not None))


class MarginTest(NamedTuple):
    """Ends of the quality loss relative to one part of the margin."""

    excess_low: float  # lower end of quality loss - margin, at the level of "worse"
    excess_high: float  # upper end of quality loss - margin
    slack_low: float  # lower end of quality loss + margin


class Judgement(NamedTuple):
    """The outcome that an interval of the quality loss allows, with a remark."""

    outcome: Outcome
    remark: Remark | None


def judge(low: float, high: float, tests: Sequence[MarginTest]) -> Judgement:
    """The outcome for an interval of the quality loss and the parts of the margin, in the protocol's order."""
    within = all(test.excess_high < 0 for test in tests)
    if high < 0:
        outcome: Outcome = "better"
    elif within:
        outcome = "as good"
    elif any(test.excess_low > 0 for test in tests):
        outcome = "worse"
    else:
        outcome = "undecided"
    if within and low > 0:
        return Judgement(outcome, "measurably worse, within the margin")
    if within and all(test.slack_low > 0 for test in tests):
        return Judgement(outcome, "equivalent")
    if outcome == "undecided" and low > 0:
        return Judgement(outcome, "worse than full, by how much is open")
    return Judgement(outcome, None)
