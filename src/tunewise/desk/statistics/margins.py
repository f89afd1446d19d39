"""The parts of a margin: the contrasts by which each is tested, and its text."""

import math
from dataclasses import replace
from typing import NamedTuple

from tunewise.desk.metrics.metric import Metric
from tunewise.desk.statistics.paired import Contrast, Contrasts
from tunewise.desk.statistics.verdict import Levels, MarginTest
from tunewise.spec import Margin


class MarginPart(NamedTuple):
    """One part of a margin."""

    excess: Contrast  # quality loss - margin
    slack: Contrast  # quality loss + margin


class Claims(NamedTuple):
    """What each outcome claims, headroom included: contrasts with a mean below 0, for "worse" above 0."""

    better: Contrast
    as_good: tuple[Contrast, ...]  # all parts of the margin
    worse: tuple[Contrast, ...]  # any part of it


def margin_test(part: MarginPart, num_parts: int, levels: Levels, guarded: bool) -> MarginTest:
    """Ends of the intervals for one part of the margin; a missing end supports no outcome."""
    for_worse = part.excess.interval(1 - 2 * levels.worse / num_parts, guarded).low
    for_as_good = part.excess.interval(1 - 2 * levels.as_good, guarded).high
    for_equivalent = part.slack.interval(1 - 2 * levels.as_good, guarded).low
    return MarginTest(
        excess_low=-math.inf if for_worse is None else for_worse,
        excess_high=math.inf if for_as_good is None else for_as_good,
        slack_low=-math.inf if for_equivalent is None else for_equivalent,
    )


def margin_parts(paired: Contrasts, harm: Contrast, margin: Margin, sign: float) -> list[MarginPart]:
    """Contrasts for every part of the margin; the share of the gain comes last.

    k times the gain is not a constant: it is estimated from the same runs, and its error is included.
    """
    parts = []
    if (m := margin.absolute) is not None:
        parts.append(MarginPart(excess=moved(harm, -m), slack=moved(harm, m)))
    if (k := margin.share_of_gain) is not None:
        excess = paired.contrast({"arm": sign, "full": -sign * (1 - k), "base": -sign * k})
        slack = paired.contrast({"arm": sign, "full": -sign * (1 + k), "base": sign * k})
        parts.append(MarginPart(excess, slack))
    assert parts, "a margin has at least one part"
    return parts


def moved(contrast: Contrast, by: float) -> Contrast:
    """The contrast with a constant added."""
    return replace(contrast, values_SN=contrast.values_SN + by, estimate=contrast.estimate + by)


def margin_text(metric: Metric, margin: Margin, full: str) -> str:
    """The margin as text, such as '0.02 nats per supervised token'."""
    parts = []
    if margin.absolute is not None:
        shown = f"{margin.absolute * metric.scale:g}"
        unit = metric.difference_unit
        parts.append(f"{shown} {unit.removesuffix('s') if shown == '1' else unit}")
    if margin.share_of_gain is not None:
        parts.append(f"{margin.share_of_gain * 100:g}% of {full}'s gain")
    return parts[0] if len(parts) == 1 else f"{' or '.join(parts)}, whichever is smaller"
