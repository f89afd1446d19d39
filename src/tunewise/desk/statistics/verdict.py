"""One verdict per arm against full fine-tuning: better, as good within the margin, worse, or undecided.

*Harm* is arm - full for losses and full - arm for scores, so that positive is worse. Each word is a test of the one
interval that is printed, and has a one-sided error of (1 - confidence) / 2: better where harm < 0 is shown, as good
where harm < margin is shown, worse where harm > margin is shown. What cannot be shown is undecided.
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
    "identical",  # all differences are equal, as if one run stood under two names
    "optimum not bracketed",
    "headroom",  # another learning rate may gain more than a quarter of the margin, and enough to turn the word
    "full gains nothing measurable here",  # so that a share of its gain means nothing
    "skew",  # the harm sits in too few units for the interval to be trusted
    "interval",  # it reaches to both sides of what it would have to exclude
    "declarations changed",  # after the first test score: the report is exploratory
    "blocked",  # a fairness rule forbids the word
]
Lean = Literal["leans better", "leans worse", "no lean"]


@dataclass(frozen=True)
class RateSearch:
    """What the search for learning rates left open."""

    unbracketed: tuple[str, ...] = ()  # those of arm and full whose best rate was an edge of those tried
    headroom_of_arm: float | None = None  # what a rate between those tried may gain, in units of the metric
    headroom_of_full: float | None = None  # None: not estimated


@dataclass(frozen=True)
class Levels:
    """One-sided error of every word. Other than the default where many arms are compared (`multiplicity.py`)."""

    better: float = ONE_SIDED_ERROR
    as_good: float = ONE_SIDED_ERROR
    worse: float = ONE_SIDED_ERROR

    def of(self, outcome: "Outcome") -> float:
        """The level at which an outcome was said; where nothing could be, the strictest, whose interval is widest."""
        strictest = min(self.better, self.as_good, self.worse)
        return {"better": self.better, "as good": self.as_good, "worse": self.worse}.get(outcome, strictest)


NOTHING_LEFT_OPEN = RateSearch()
ONE_ARM = Levels()


class Verdict(Frozen):
    """One arm against full, in units of the metric. `difference`, `low` and `high` are arm - full, never harm."""

    arm: str
    against: str
    metric: str
    difference: float  # the arm's mean over seeds minus full's
    low: float | None  # of the two-sided interval at `confidence`, for new seeds and new units
    high: float | None
    confidence: float  # 0.95, or more by Holm where several arms are compared with full
    num_compared: int  # arms among which Holm's levels were shared out
    standard_error: float | None
    degrees_of_freedom: float | None
    components: Components | None  # of the squared standard error
    margin: str  # in words
    margin_absolute: float | None  # in units of the metric; None: not part of the margin
    margin_share_of_gain: float | None
    share_excess: Estimate | None  # harm minus that share of the gain: within it where high < 0
    gain: Estimate  # of full over the base with its 95 % interval, positive: full is better
    gain_kept: Estimate | None  # share of it that the arm keeps; None: the gain is not measurable
    perplexity_ratio: Estimate | None  # arm / full; None: the metric is not nll, or too large to write
    outcome: Outcome
    remark: Remark | None
    reason: Reason | None  # why it is undecided; None: it is not
    lean: Lean | None  # of these very runs, where there are too few seeds to say more
    unbracketed: tuple[str, ...]  # arms whose best learning rate was an edge of those tried
    headroom_of_arm: float | None  # what another learning rate may gain, in units of the metric; None: not estimated
    headroom_of_full: float | None
    harmful_units: tuple[str, ...]  # where skew forbids a word: the units that carry the harm, worst first
    num_seeds: int
    num_units: int
    num_rows: int
    would_decide: Needed | None  # what a new study needs; None: decided, or more data is not what is missing
    blocked_by: tuple[str, ...] = ()  # the fairness rules that forbid a word
    diverged_runs: dict[str, int] = {}  # arm -> confirmed runs that diverged, which count as they were scored
    dropped_seeds: tuple[int, ...] = ()  # lost to the machine twice in some arm, and left out of all


class MarginTest(NamedTuple):
    """What is known of the harm beside one part of the margin."""

    excess_low: float  # lower end of harm - margin, at the level of "worse"
    excess_high: float  # upper end of harm - margin
    slack_low: float  # lower end of harm + margin


class Judgement(NamedTuple):
    """The word that an interval of harm allows, and what else can be said."""

    outcome: Outcome
    remark: Remark | None


def judge(low: float, high: float, tests: Sequence[MarginTest]) -> Judgement:
    """The outcome for the interval [low, high] of harm and the parts of the margin, by the protocol's order."""
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
