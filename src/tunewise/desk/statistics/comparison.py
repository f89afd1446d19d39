"""Compare one arm with full fine-tuning on the same rows: from scores to the verdict.

A margin of two parts is the smaller of the two. "As good" requires a quality loss below each part: both tests must
pass, each at the full level. "Worse" requires a quality loss above at least one part. Two chances to pass would double
the error of "worse", so each of its tests runs at half the level (Bonferroni).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tunewise.desk.metrics.metrics import measured_metric
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.statistics.gain import gain_kept
from tunewise.desk.statistics.intervals import Estimate, Interval
from tunewise.desk.statistics.look import LAST, Look
from tunewise.desk.statistics.margins import Claims, margin_parts, margin_test, margin_text, moved
from tunewise.desk.statistics.paired import Contrast, Contrasts, PairedRuns, finite_exp
from tunewise.desk.statistics.power import MIN_SEEDS, MIN_UNITS, ONE_SIDED_ERROR, Needed, needed
from tunewise.desk.statistics.spread import ROUNDING
from tunewise.desk.statistics.verdict import (
    NOTHING_LEFT_OPEN,
    ONE_ARM,
    Judgement,
    Lean,
    Levels,
    Outcome,
    RateSearch,
    Reason,
    Remark,
    Verdict,
    Word,
    judge,
)
from tunewise.spec import Margin
from tunewise.spec.quantities import HEADROOM_SHARE

NUM_EXTREME_UNITS = 10
# Reasons for an inconclusive verdict that a larger study would resolve.
DECIDED_BY_MORE = ("seeds", "interval")


@dataclass(frozen=True)
class ArmScores:
    """The confirmed runs of one verdict, scored on the same rows."""

    arm: tuple[Scores, ...]  # by seed
    full: tuple[Scores, ...]  # the same seeds in the same order
    base: tuple[Scores, ...]  # the reference of gain: one record (the base), or one per seed (the head arm)
    against: str = "full"  # the name of the full arm
    contrasts: Contrasts | None = None  # None: the same seeds in both arms
    are_seeds_drawn: bool = True  # False: a verdict on these very runs, whatever their number


def decide(
    arm: str,
    runs: ArmScores,
    metric: str,
    margin: Margin,
    search: RateSearch = NOTHING_LEFT_OPEN,
    levels: Levels = ONE_ARM,
) -> Verdict:
    """The verdict on a single arm; several are decided together by multiplicity.decide_together.

    The verdict is inconclusive with fewer than 3 seeds, with units that weigh as fewer than 10 equal ones, if all
    differences are equal, or if the best learning rate is not bracketed. If the margin is a share of full's gain, it is
    also inconclusive unless that gain is measurably above 0.

    Headroom, the possible gain from a finer learning-rate search, counts if it exceeds a quarter of the margin. That of
    full counts against "better" and "as good", that of the arm against "worse". The outcome must hold nevertheless.
    Raises SpecError for an unknown metric, StudyError if the runs were not scored on the same rows.
    """
    return Comparison(arm, runs, metric, margin, search).verdict(levels)


class _Ruling(NamedTuple):
    outcome: Outcome
    remark: Remark | None
    reason: Reason | None
    threatened: Outcome | None = None  # the outcome that a long tail of units withholds


class Comparison:
    """One arm and full on the same rows: the contrasts of the verdict, and what prevents each outcome."""

    def __init__(  # noqa: PLR0913 - the parts of one question
        self,
        arm: str,
        runs: ArmScores,
        metric: str,
        margin: Margin,
        search: RateSearch,
        look: Look = LAST,
    ) -> None:
        self.arm, self._runs, self._margin, self._search = arm, runs, margin, search
        self._look = look
        self._metric = measured_metric(metric, runs.full[0])
        sign = -1.0 if self._metric.higher_is_better else 1.0
        assert runs.contrasts or len(runs.arm) == len(runs.full), "arm and full share their seeds"
        of_arm = {"arm": runs.arm, "full": runs.full, "base": runs.base}
        self._paired = runs.contrasts or PairedRuns(self._metric, of_arm, look.most_freedom)
        self.difference = self._paired.contrast({"arm": 1, "full": -1})
        self._harm = self._paired.contrast({"arm": sign, "full": -sign})
        self._gain = self._paired.contrast({"base": sign, "full": -sign}).interval()
        self._parts = margin_parts(self._paired, self._harm, margin, sign)
        self.blocked = self._what_blocks()

    def claims(self) -> Claims:
        """What each outcome claims.

        Headroom counts against it: that of full adds to the quality loss, that of the arm is subtracted.
        """
        of_full, of_arm = self._counted_headrooms()
        excesses = [part.excess for part in self._parts]
        return Claims(
            better=moved(self._harm, of_full),
            as_good=tuple(moved(excess, of_full) for excess in excesses),
            worse=tuple(moved(excess, -of_arm) for excess in excesses),
        )

    def p_values(self) -> dict[Word, float]:
        """The smallest one-sided level at which each outcome would be given; 1 if no outcome is allowed."""
        better, as_good, worse = self.claims()
        found: dict[Word, float] = {
            "better": better.probability_of_negative(),
            "as good": max(excess.probability_of_negative() for excess in as_good),
            "worse": min(1.0, len(worse) * min(excess.probability_of_positive() for excess in worse)),
        }
        return {word: 1.0 if self.blocked else p for word, p in found.items()}

    def chance_of_word(self) -> float:
        """The predictive chance that the last look gives any outcome; 0 if not only the interval prevents one."""
        if self.blocked:
            return 0.0
        seeds, (_, as_good, worse) = self._look.last, self.claims()
        good = min(excess.chance_of_negative(seeds, ONE_SIDED_ERROR) for excess in as_good)
        half = ONE_SIDED_ERROR / len(worse)
        return min(1.0, good + max(excess.chance_of_positive(seeds, half) for excess in worse))

    def _counted_headrooms(self) -> tuple[float, float]:
        """The headroom of full and of the arm as far as it counts: all if above a quarter of the margin, else 0."""
        least = HEADROOM_SHARE * min(self._margins())
        full, arm = self._search.headroom_of_full or 0.0, self._search.headroom_of_arm or 0.0
        return full if full > least else 0.0, arm if arm > least else 0.0

    def smallest_margin_as_good(self, levels: Levels) -> float | None:
        """The smallest absolute margin, 0 or more, above which the arm is as good; None: something blocks a verdict.

        With h the headroom of full and U the upper end of the quality loss: U + h, or U from a margin of 4 h on.
        """
        high, headroom = self._harm.interval(1 - 2 * levels.as_good).high, self._search.headroom_of_full or 0.0
        if self.blocked or high is None:
            return None
        return max(0.0, min(high + headroom, max(high, headroom / HEADROOM_SHARE)))

    def verdict(self, levels: Levels, num_compared: int = 1) -> Verdict:
        """The verdict at these one-sided errors."""
        ruling = self._rule(levels)
        confidence = 1 - 2 * levels.of(ruling.outcome)
        interval = self.difference.interval(confidence)
        share_excess = self._parts[-1].excess if self._margin.share_of_gain is not None else None
        is_few = self._runs.are_seeds_drawn and interval.num_seeds < MIN_SEEDS
        return Verdict(
            arm=self.arm,
            against=self._runs.against,
            metric=self._metric.name,
            difference=interval.estimate,
            low=interval.low,
            high=interval.high,
            confidence=confidence,
            num_compared=num_compared,
            standard_error=interval.standard_error,
            degrees_of_freedom=interval.degrees_of_freedom,
            components=interval.components,
            margin=margin_text(self._metric, self._margin, self._runs.against),
            margin_absolute=self._margin.absolute,
            margin_share_of_gain=self._margin.share_of_gain,
            share_excess=share_excess.interval(confidence).as_estimate() if share_excess else None,
            gain=self._gain.as_estimate(),
            gain_kept=self._gain_kept(confidence),
            perplexity_ratio=_perplexity_ratio(interval) if self._metric.name == "nll" else None,
            smallest_margin_as_good=self.smallest_margin_as_good(levels),
            outcome=ruling.outcome,
            remark=ruling.remark,
            reason=ruling.reason,
            lean=_lean(self._harm, confidence) if is_few else None,
            unbracketed=self._search.unbracketed,
            headroom_of_arm=self._search.headroom_of_arm,
            headroom_of_full=self._search.headroom_of_full,
            harmful_units=_extreme_units(self._harm, 1.0) if ruling.threatened in ("better", "as good") else (),
            beneficial_units=_extreme_units(self._harm, -1.0) if ruling.threatened == "worse" else (),
            num_seeds=interval.num_seeds,
            num_units=interval.num_units,
            effective_units=self._paired.effective_units,
            num_rows=len(self._runs.arm[0].examples),
            chance_at_last=self._chance_at_last(ruling),
            would_decide=self._would_decide((1 - confidence) / 2) if ruling.reason in DECIDED_BY_MORE else None,
        )

    def _chance_at_last(self, ruling: _Ruling) -> float | None:
        is_open = ruling.outcome == "undecided" and not self.blocked
        return self.chance_of_word() if is_open and not self._look.is_last else None

    def _gain_is_measurable(self) -> bool:
        return self._gain.low is not None and self._gain.low > 0

    def _gain_kept(self, confidence: float) -> Estimate | None:
        if self._runs.contrasts or not self._gain_is_measurable():  # its Fieller set needs paired seeds
            return None
        return gain_kept(self._paired.contrast({"arm": 1, "base": -1}), self.difference, confidence)

    def _margins(self) -> list[float]:
        """The parts of the margin in units of the metric, in the order of `_parts`; the share of the estimated gain."""
        absolute, share = self._margin.absolute, self._margin.share_of_gain
        parts = [absolute, None if share is None else share * self._gain.estimate]
        return [part for part in parts if part is not None]

    def _what_blocks(self) -> Reason | None:
        """The reason that prevents any outcome, whatever the interval."""
        interval = self._harm.interval()
        if self._runs.are_seeds_drawn and interval.num_seeds < MIN_SEEDS:
            return "seeds"
        if self._paired.effective_units < MIN_UNITS:
            return "units"
        if interval.low is None or self._are_same_runs():
            return "identical"
        if self._search.unbracketed:
            return "optimum not bracketed"
        if self._margin.share_of_gain is not None and not self._gain_is_measurable():
            return "full gains nothing measurable here"
        return None

    def _are_same_runs(self) -> bool:
        """Whether arm and full are the same runs under two names: an accuracy alone may agree by chance."""
        pairs = zip(self._runs.arm, self._runs.full, strict=False)
        return not np.abs(self._harm.unit_means()).max() > ROUNDING and all(
            np.array_equal(arm.predictions, full.predictions) and np.allclose(arm.nll, full.nll, rtol=ROUNDING, atol=0)
            for arm, full in pairs
        )

    def _rule(self, levels: Levels) -> _Ruling:
        """The outcome that the interval supports, unless something blocks it."""
        if self.blocked:
            return _Ruling("undecided", None, self.blocked)
        judgement = self._judgement(levels)
        if judgement.outcome == "undecided":
            threatened = self._judgement(levels, guarded=False).outcome
            if threatened == "undecided":
                return _Ruling(*judgement, "interval")
            return _Ruling(*judgement, "skew", threatened)
        if self.p_values()[judgement.outcome] > levels.of(judgement.outcome):
            return _Ruling("undecided", None, "headroom")
        return _Ruling(*judgement, None)

    def _judgement(self, levels: Levels, guarded: bool = True) -> Judgement:
        """What the intervals say; unguarded: as if no tail of units were too long."""
        tests = [margin_test(part, len(self._parts), levels, guarded) for part in self._parts]
        is_within = all(test.excess_high < 0 for test in tests)
        high = self._harm.interval(1 - 2 * levels.better, guarded).high
        low = self._harm.interval(1 - 2 * levels.of("as good" if is_within else "undecided"), guarded).low
        assert low is not None, "no interval blocks"
        assert high is not None, "no interval blocks"
        return judge(low, high, tests)

    def _would_decide(self, level: float) -> Needed | None:
        """Size of a new study for the most demanding part of the margin."""
        found = []
        for part, margin in zip(self._parts, self._margins(), strict=True):
            excess = part.excess.interval()
            if excess.components is None or margin <= 0:
                return None
            found.append(needed(excess.components, excess.num_seeds, excess.num_units, margin, level))
        return max(found, key=lambda need: (need.kind == "units", need.likely or math.inf))


def _extreme_units(harm: Contrast, sign: float) -> tuple[str, ...]:
    """The units with the largest quality loss (sign 1) or gain (sign -1), largest first."""
    by_unit = sign * harm.unit_means()
    largest = np.argsort(-by_unit, kind="stable")[:NUM_EXTREME_UNITS]
    return tuple(str(harm.units[i]) for i in largest if by_unit[i] > 0)


def _lean(harm: Contrast, confidence: float) -> Lean:
    """The direction of these runs alone, by the interval over units."""
    interval = harm.over_units(confidence)
    if interval.high is not None and interval.high < 0:
        return "leans better"
    if interval.low is not None and interval.low > 0:
        return "leans worse"
    return "no lean"


def _perplexity_ratio(difference: Interval) -> Estimate | None:
    """The ratio of the perplexities: exp of a difference of NLL and of its ends."""
    ratio = finite_exp(difference.estimate)
    if ratio is None:
        return None
    return Estimate(estimate=ratio, low=finite_exp(difference.low), high=finite_exp(difference.high))
