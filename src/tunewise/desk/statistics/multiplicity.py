"""Holm's correction for comparing several arms with full fine-tuning, in one metric or two.

Within one look, and separately for better, as good and worse, the chance that any comparison gets the outcome wrongly
stays at the one-sided error of a single one at that look. Source: Holm 1979 (Scandinavian Journal of Statistics 6).

Shapes: K comparisons, each of an arm in a metric; `...` many studies at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tunewise.desk.arrays import Floats
from tunewise.desk.statistics.comparison import Comparison
from tunewise.desk.statistics.power import ONE_SIDED_ERROR
from tunewise.desk.statistics.verdict import Levels, Outcome, Verdict, Word


def holm_levels(p_values_K: Floats, level: float = ONE_SIDED_ERROR) -> Floats:
    """The level at which Holm tests each comparison, (..., K): level / (K - rank), rank 0 the smallest p-value.

    After the first one that is not significant, no other is. All later ones keep the level at which it failed, so that
    p <= level decides for every one whether Holm rejects, and an interval at that level agrees.
    """
    num_arms = p_values_K.shape[-1]
    order = np.argsort(p_values_K, axis=-1, kind="stable")
    levels = np.broadcast_to(level / (num_arms - np.arange(num_arms)), p_values_K.shape)
    failed = np.take_along_axis(p_values_K, order, axis=-1) > levels
    first = np.where(failed.any(axis=-1, keepdims=True), failed.argmax(axis=-1, keepdims=True), num_arms - 1)
    levels = np.minimum(levels, np.take_along_axis(levels, first, axis=-1))
    found: Floats = np.empty(p_values_K.shape)
    np.put_along_axis(found, order, levels, axis=-1)
    return found


def decide_together(
    comparisons: Sequence[Comparison], level: float = ONE_SIDED_ERROR, left: Sequence[Outcome] = ()
) -> tuple[Verdict, ...]:
    """One verdict per comparison, in order, each outcome at its Holm level among them, as is the interval.

    `level`: the one-sided error of each outcome at this look. A comparison that may not have an outcome (`verdict.py`)
    comes last for it. `left`: the outcomes of the family's comparisons that ended at an earlier look. Those that have
    an outcome leave their level to the others. The inconclusive ones do not: dropping them would be a choice by the
    data, which makes wrong outcomes more frequent (Maurer & Bretz 2013, Statistics in Biopharmaceutical Research 5).
    """
    levels = [Levels() for _ in comparisons]
    p_values = [comparison.p_values() for comparison in comparisons]
    fields: dict[Word, str] = {"better": "better", "as good": "as_good", "worse": "worse"}
    for word, field in fields.items():
        of_left = [0.0 if has(outcome, word) else 1.0 for outcome in left]
        found = holm_levels(np.array([of_arm[word] for of_arm in p_values] + of_left), level)
        levels = [replace(of_arm, **{field: float(own)}) for of_arm, own in zip(levels, found, strict=False)]
    num_compared = len(comparisons) + len(left)
    return tuple(
        comparison.verdict(of_arm, num_compared) for comparison, of_arm in zip(comparisons, levels, strict=True)
    )


def has(outcome: Outcome, word: Word) -> bool:
    """Whether an outcome contains this word: what is better is also as good."""
    return outcome == word or (word == "as good" and outcome == "better")


def recommended(verdicts: Sequence[Verdict], costs: Mapping[str, float | None]) -> str | None:
    """The cheapest arm that is better or as good, by `costs`; the first among equals.

    None: there is no such arm, or its cost is not known.
    """
    good = [verdict.arm for verdict in verdicts if verdict.outcome in ("better", "as good")]
    known = {arm: cost for arm in good if (cost := costs.get(arm)) is not None}
    return min(known, key=lambda arm: known[arm]) if known else None
