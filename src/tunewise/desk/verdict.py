"""One verdict per arm against full fine-tuning: better, as good within the margin, worse, or undecided.

*Harm* is arm - full for losses and full - arm for scores, so that positive is worse. Each word is a test of the one
interval that is printed, and has a one-sided error of (1 - confidence) / 2: better where harm < 0 is shown, as good
where harm < margin is shown, worse where harm > margin is shown. What cannot be shown is undecided.

A margin of two parts is the smaller of both. To be below the smaller, harm must be below each: both tests must pass,
each at the full level. To be above it, it is enough that harm is above one: but two chances to pass would double the
error of "worse", so each of them runs at half of it (Bonferroni), and "worse" stays at its level, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize, special

from tunewise.desk.metrics import METRICS, Metric, Scores
from tunewise.desk.paired import (
    Components,
    Contrast,
    Estimate,
    Interval,
    PairedRuns,
    finite_exp,
    gain_kept,
    unit_interval,
)
from tunewise.registry import lookup
from tunewise.spec import Frozen, Margin

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
    "full gains nothing measurable here",  # so that a share of its gain means nothing
    "skew",  # the harm sits in too few units for the interval to be trusted
    "interval",  # it reaches to both sides of what it would have to exclude
]
Lean = Literal["leans better", "leans worse", "no lean"]

MIN_SEEDS = 3
MIN_UNITS = 10
# One-sided t tests err by about (2 z^2 + 1) phi(z) / 6 * g / sqrt(N) more than they should (first Edgeworth term,
# Hall 1992, The Bootstrap and Edgeworth Expansion, section 2.6): at N = 70 g^2 that is 1 point on top of 2.5 %.
UNITS_PER_SQUARED_SKEWNESS = 70
NUM_HARMFUL_UNITS = 10
POWER = 0.8
# Of arm - full over units, where nothing is known yet. Accuracy: the square root of a share of 2.5 % of rows on
# which two good classifiers disagree; NLL: what arms that nearly agree show on short texts.
ASSUMED_UNIT_SD = {"nll": 0.1, "accuracy": 0.16}


@dataclass(frozen=True)
class ArmScores:
    """The confirmed runs that one verdict is about, scored on the same rows."""

    arm: tuple[Scores, ...]  # by seed
    full: tuple[Scores, ...]  # the same seeds in the same order
    base: tuple[Scores, ...]  # the reference of gain: one record (the base), or one per seed (the head arm)
    against: str = "full"  # the name of the full arm


class Verdict(Frozen):
    """One arm against full, in units of the metric. `difference`, `low` and `high` are arm - full, never harm."""

    arm: str
    against: str
    metric: str
    difference: float  # the arm's mean over seeds minus full's
    low: float | None  # of the two-sided interval at `confidence`, for new seeds and new units
    high: float | None
    confidence: float
    standard_error: float | None
    degrees_of_freedom: float | None
    components: Components | None  # of the squared standard error
    margin: str  # in words
    margin_absolute: float | None  # in units of the metric; None: not part of the margin
    margin_share_of_gain: float | None
    share_excess: Estimate | None  # harm minus that share of the gain: within it where high < 0
    gain: Estimate  # of full over the base, positive: full is better
    gain_kept: Estimate | None  # share of it that the arm keeps; None: the gain is not measurable
    perplexity_ratio: Estimate | None  # arm / full; None: the metric is not nll, or too large to write
    outcome: Outcome
    remark: Remark | None
    reason: Reason | None  # why it is undecided; None: it is not
    lean: Lean | None  # of these very runs, where there are too few seeds to say more
    unbracketed: tuple[str, ...]  # arms whose best learning rate was an edge of those tried
    harmful_units: tuple[str, ...]  # where skew forbids a word: the units that carry the harm, worst first
    num_seeds: int
    num_units: int
    num_rows: int


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


def decide(
    arm: str,
    runs: ArmScores,
    metric: str,
    margin: Margin,
    unbracketed: Sequence[str] = (),
    confidence: float = 0.95,
) -> Verdict:
    """The verdict on `arm`. `unbracketed` names those of arm and full whose best rate was an edge of those tried.

    No word is said with fewer than 3 seeds or 10 units, where all differences are equal, of an unbracketed optimum,
    and, if the margin is a share of full's gain, where that gain is not measurably above 0. "As good" is not said
    where the harm is skewed over units. Raises SpecError for an unknown metric, StudyError where rows differ.
    """
    assert len(runs.arm) == len(runs.full), "arm and full share their seeds"
    of_metric = lookup(METRICS, metric, "metric")
    sign = -1.0 if of_metric.higher_is_better else 1.0
    paired = PairedRuns(of_metric, {"arm": runs.arm, "full": runs.full, "base": runs.base})
    difference = paired.contrast({"arm": 1, "full": -1})
    harm = paired.contrast({"arm": sign, "full": -sign})
    gain = paired.contrast({"base": sign, "full": -sign}).interval(confidence)
    gain_is_measurable = gain.low is not None and gain.low > 0
    parts = _margin_parts(paired, harm, margin, sign)
    ruling = _rule(harm, parts, unbracketed, margin.share_of_gain is None or gain_is_measurable, confidence)
    interval = difference.interval(confidence)
    share_excess = parts[-1].excess.interval(confidence) if margin.share_of_gain is not None else None
    kept = gain_kept(paired.contrast({"arm": 1, "base": -1}), difference, confidence) if gain_is_measurable else None
    return Verdict(
        arm=arm,
        against=runs.against,
        metric=metric,
        difference=interval.estimate,
        low=interval.low,
        high=interval.high,
        confidence=confidence,
        standard_error=interval.standard_error,
        degrees_of_freedom=interval.degrees_of_freedom,
        components=interval.components,
        margin=_margin_text(of_metric, margin, runs.against),
        margin_absolute=margin.absolute,
        margin_share_of_gain=margin.share_of_gain,
        share_excess=share_excess.as_estimate() if share_excess else None,
        gain=gain.as_estimate(),
        gain_kept=kept,
        perplexity_ratio=_perplexity_ratio(interval) if metric == "nll" else None,
        outcome=ruling.outcome,
        remark=ruling.remark,
        reason=ruling.reason,
        lean=_lean(harm, confidence) if interval.num_seeds < MIN_SEEDS else None,
        unbracketed=tuple(unbracketed),
        harmful_units=_harmful_units(harm) if ruling.reason == "skew" else (),
        num_seeds=interval.num_seeds,
        num_units=interval.num_units,
        num_rows=len(runs.arm[0].examples),
    )


class _MarginPart(NamedTuple):
    excess: Contrast  # harm - margin
    slack: Contrast  # harm + margin


class _Ruling(NamedTuple):
    outcome: Outcome
    remark: Remark | None
    reason: Reason | None


def _margin_parts(paired: PairedRuns, harm: Contrast, margin: Margin, sign: float) -> list[_MarginPart]:
    """Every part of the margin as contrasts of the same records; the share of the gain comes last.

    k times the gain is not put in as a constant: it is estimated from the same runs, and its error counts.
    """
    parts = []
    if (m := margin.absolute) is not None:
        excess = replace(harm, values_SN=harm.values_SN - m, estimate=harm.estimate - m)
        slack = replace(harm, values_SN=harm.values_SN + m, estimate=harm.estimate + m)
        parts.append(_MarginPart(excess, slack))
    if (k := margin.share_of_gain) is not None:
        excess = paired.contrast({"arm": sign, "full": -sign * (1 - k), "base": -sign * k})
        slack = paired.contrast({"arm": sign, "full": -sign * (1 + k), "base": sign * k})
        parts.append(_MarginPart(excess, slack))
    assert parts, "a margin has at least one part"
    return parts


def _rule(
    harm: Contrast,
    parts: Sequence[_MarginPart],
    unbracketed: Sequence[str],
    margin_is_measurable: bool,
    confidence: float,
) -> _Ruling:
    """The rules of the protocol in their order: what forbids every word, the words, what forbids "as good"."""
    interval = harm.interval(confidence)
    if interval.num_seeds < MIN_SEEDS:
        return _Ruling("undecided", None, "seeds")
    if interval.num_units < MIN_UNITS:
        return _Ruling("undecided", None, "units")
    if interval.low is None or interval.high is None:
        return _Ruling("undecided", None, "identical")
    if unbracketed:
        return _Ruling("undecided", None, "optimum not bracketed")
    if not margin_is_measurable:
        return _Ruling("undecided", None, "full gains nothing measurable here")
    judgement = judge(interval.low, interval.high, [_margin_test(part, len(parts), confidence) for part in parts])
    if judgement.outcome == "as good" and any(_is_skewed(contrast) for contrast in (harm, *(p.excess for p in parts))):
        return _Ruling("undecided", None, "skew")
    return _Ruling(*judgement, "interval" if judgement.outcome == "undecided" else None)


def _margin_test(part: _MarginPart, num_parts: int, confidence: float) -> MarginTest:
    """What the intervals of one part allow; an end that cannot be given allows nothing."""
    for_worse = part.excess.interval(1 - (1 - confidence) / num_parts).low
    for_as_good = part.excess.interval(confidence).high
    for_equivalent = part.slack.interval(confidence).low
    return MarginTest(
        excess_low=-math.inf if for_worse is None else for_worse,
        excess_high=math.inf if for_as_good is None else for_as_good,
        slack_low=-math.inf if for_equivalent is None else for_equivalent,
    )


def _is_skewed(harm: Contrast) -> bool:
    """True where a long tail of units towards harm makes the upper end of the interval too low to be trusted."""
    by_unit = harm.values_SN.mean(axis=0)
    deviations = by_unit - by_unit.mean()
    spread = float(np.sqrt((deviations**2).mean()))
    if spread == 0:
        return False
    skewness = float((deviations**3).mean()) / spread**3
    return skewness > 0 and len(harm.units) < UNITS_PER_SQUARED_SKEWNESS * skewness**2


def _harmful_units(harm: Contrast) -> tuple[str, ...]:
    by_unit = harm.unit_means()
    worst = np.argsort(-by_unit, kind="stable")[:NUM_HARMFUL_UNITS]
    return tuple(str(harm.units[i]) for i in worst if by_unit[i] > 0)


def _lean(harm: Contrast, confidence: float) -> Lean:
    """To which side these very runs point, by the interval over units alone."""
    interval = unit_interval(harm.values_SN, confidence)
    if interval.high is not None and interval.high < 0:
        return "leans better"
    if interval.low is not None and interval.low > 0:
        return "leans worse"
    return "no lean"


def _perplexity_ratio(difference: Interval) -> Estimate | None:
    """exp of a difference of NLL and of its ends: the ratio of the perplexities."""
    ratio = finite_exp(difference.estimate)
    if ratio is None:
        return None
    return Estimate(estimate=ratio, low=finite_exp(difference.low), high=finite_exp(difference.high))


# --- in words


def _margin_text(metric: Metric, margin: Margin, full: str) -> str:
    parts = []
    if margin.absolute is not None:
        shown = f"{margin.absolute * metric.scale:g}"
        unit = metric.difference_unit
        parts.append(f"{shown} {unit.removesuffix('s') if shown == '1' else unit}")
    if margin.share_of_gain is not None:
        parts.append(f"{margin.share_of_gain * 100:g}% of {full}'s gain")
    return parts[0] if len(parts) == 1 else f"{' or '.join(parts)}, whichever is smaller"


def sentence(verdict: Verdict) -> str:
    """The verdict in one sentence: what was found, how sure it is, on how much evidence, and what it means."""
    head = {
        "better": f"{verdict.arm} is better than {verdict.against}",
        "as good": f"{verdict.arm} is as good as {verdict.against} within the margin",
        "worse": f"{verdict.arm} is worse than {verdict.against} by more than the margin",
        "undecided": f"{verdict.arm} against {verdict.against} is undecided",
    }[verdict.outcome]
    metric = METRICS[verdict.metric]
    better = "higher" if metric.higher_is_better else "lower"
    units = _count(verdict.num_units, "test unit")
    if verdict.num_rows != verdict.num_units:
        units += f" of {_count(verdict.num_rows, 'row')}"
    return (
        f"At the learning rates found, {head}: its {metric.label} differs by {_signed(metric, verdict.difference)} "
        f"{metric.difference_unit} ({_interval_text(verdict, metric)}, {better} is better; "
        f"{_count(verdict.num_seeds, 'seed')}, {units}), {_meaning(verdict)}."
    )


def _meaning(verdict: Verdict) -> str:
    margin = f"the declared margin ({verdict.margin})"
    if verdict.outcome == "better":
        return f"so it is better even at the unfavourable end of the interval, without any use of {margin}"
    if verdict.outcome == "worse":
        return f"so the loss is beyond {margin}"
    if verdict.outcome == "as good" and verdict.remark == "measurably worse, within the margin":
        return f"so it is measurably worse, but a loss beyond {margin} is ruled out"
    if verdict.outcome == "as good":
        return f"so a loss beyond {margin} is ruled out"
    if verdict.remark == "worse than full, by how much is open":
        return f"so it is worse, but whether beyond {margin} is open"
    return {
        "seeds": f"but it takes {MIN_SEEDS} seeds to judge {margin}: these runs only, {verdict.lean}",
        "units": f"but it takes {MIN_UNITS} independent test units to judge {margin}",
        "identical": f"but all differences are equal, as if one run stood under two names, and {margin} is not judged",
        "optimum not bracketed": f"but the best learning rate of {' and '.join(verdict.unbracketed)} was an edge of "
        f"those tried and a better one may lie beyond, so that {margin} is not judged",
        "full gains nothing measurable here": f"but {verdict.against} gains nothing measurable here, so that "
        f"{margin} means nothing",
        "skew": f"but the harm sits in too few units ({', '.join(verdict.harmful_units[:3])}, ...) to rule out a "
        f"loss beyond {margin}",
        "interval": f"so whether a loss stays within {margin} is open",
        None: "",
    }[verdict.reason]


def _interval_text(verdict: Verdict, metric: Metric) -> str:
    if verdict.low is None or verdict.high is None:
        return "no interval"
    level = f"{verdict.confidence * 100:g}% interval"
    return f"{level} {_signed(metric, verdict.low)} to {_signed(metric, verdict.high)}"


def _signed(metric: Metric, value: float) -> str:
    return f"{value * metric.scale:+.{metric.decimals}f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# --- before training


def smallest_margin(num_units: int, num_seeds: int, unit_sd: float, seed_sd: float = 0.0) -> float:
    """The smallest margin at which an arm that truly equals full is called as good in 80 % of studies.

    In units of the metric. `unit_sd`: standard deviation over units of arm - full, `seed_sd` over seeds; 0, as
    before any run, is the best case. With v = unit_sd^2 / N + seed_sd^2 / S it is about sqrt(7.85 v), where
    7.85 = (1.96 + 0.84)^2; exactly delta sqrt(v), delta the noncentrality at which a noncentral t exceeds the
    one-sided 2.5 % point with probability 0.8 (Julious 2004, Statistics in Medicine 23, section 5; degrees of
    freedom after Satterthwaite). Infinite with fewer than 3 seeds or 10 units: no margin is resolved then.
    """
    if num_seeds < MIN_SEEDS or num_units < MIN_UNITS:
        return math.inf
    by_unit, by_seed = unit_sd**2 / num_units, seed_sd**2 / num_seeds
    variance = by_unit + by_seed
    assert variance > 0, "differences vary"
    freedom = variance**2 / (by_unit**2 / (num_units - 1) + by_seed**2 / (num_seeds - 1))
    critical = special.stdtrit(freedom, 0.975)
    delta = optimize.brentq(lambda shift: 1 - special.nctdtr(freedom, shift, critical) - POWER, 0, 30)
    return float(delta) * math.sqrt(variance)
