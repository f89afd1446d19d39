"""Simulate learning-rate searches on known curves: trials, and what the confirmed rate loses to the best one.

`python scripts/calibrate_search.py` prints the table, which scripts/calibrate.py writes into the docs.
Curves are functions of the distance to their best rate, in grid places (factors of `tuning.spacing`).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tunewise.desk.protocol.search import Tolerance, chosen_rate, lowest_point, search
from tunewise.spec import DEFAULT_MARGINS, TuningSpec
from tunewise.spec.quantities import HEADROOM_SHARE

MARGIN = DEFAULT_MARGINS["nll"].absolute
assert MARGIN is not None
TOLERANCE = Tolerance(HEADROOM_SHARE * MARGIN)
CENTER = 1e-4
NOISE = (0.05, 0.2, 0.6)  # standard deviation of a trial's loss, in margins
DIVERGED = 25 * MARGIN  # loss of a confirmed rate that does not train, to keep means finite

Curve = Callable[[float], float | None]

CURVES: dict[str, Curve] = {
    "parabola, 0.05 a place": lambda x: 0.05 * x * x,
    "flat parabola, 0.01 a place": lambda x: 0.01 * x * x,
    "steep parabola, 0.3 a place": lambda x: 0.3 * x * x,
    "log-cosh, 0.1": lambda x: 0.1 * math.log(math.cosh(x)),
    "cliff on the right, diverges at 2": lambda x: None if x > 2 else 0.03 * x * x + 0.4 * max(x - 0.7, 0) ** 2,
    "steep cliff on the right": lambda x: 0.03 * x * x + 20 * max(x - 0.7, 0) ** 2,
    "wall at 0.7": lambda x: 0.03 * x * x + (8.0 if x > 0.7 else 0.0),
    "wall at 0.3": lambda x: 0.03 * x * x + (8.0 if x > 0.3 else 0.0),
    "diverges from 0.3 on": lambda x: None if x > 0.3 else 0.03 * x * x,
    "unequal sides, 0.3 and 0.02": lambda x: (0.3 if x < 0 else 0.02) * x * x,
}


class Found(NamedTuple):
    """What one search cost and found."""

    trials: int
    regret: float  # loss of the confirmed rate above the best one, in margins
    is_coarse: bool  # the headroom is above what a verdict forgives


class Rule(NamedTuple):
    """Mean results of one rule on one curve."""

    trials: float
    regret: float
    high_regret: float  # 95th percentile
    coarse: float  # share


class Row(NamedTuple):
    """Both rules on one curve with one noise."""

    curve: str
    noise: float
    fixed: Rule
    adaptive: Rule


def one_search(rng: np.random.Generator, curve: Curve, noise: float, tolerance: Tolerance | None) -> Found:
    """Search a rate on `curve`, whose best rate is up to one place from the center."""
    tuning, best = TuningSpec(), rng.uniform(-1, 1)

    def loss(rate: float) -> float | None:
        return curve(math.log(rate / CENTER, tuning.spacing) - best)

    losses: dict[float, float | None] = {}
    while waiting := search(tuning, CENTER, losses, {}, dict, tolerance).waiting:
        for rate in waiting:
            found = loss(rate)
            losses[rate] = None if found is None else found + noise * MARGIN * rng.standard_normal()
    chosen = chosen_rate(losses, tolerance)
    regret = None if chosen is None else loss(chosen)
    lowest = lowest_point(losses)
    left = lowest.gain if lowest is not None and chosen in losses else 0.0
    return Found(len(losses), (DIVERGED if regret is None else regret) / MARGIN, left > TOLERANCE.absolute)


def rule(curve: Curve, noise: float, tolerance: Tolerance | None, num_searches: int) -> Rule:
    """Mean results over `num_searches`, the same best rates for every rule."""
    rng = np.random.default_rng(2)
    found = [one_search(rng, curve, noise, tolerance) for _ in range(num_searches)]
    regrets = [one.regret for one in found]
    return Rule(
        trials=float(np.mean([one.trials for one in found])),
        regret=float(np.mean(regrets)),
        high_regret=float(np.quantile(regrets, 0.95)),
        coarse=float(np.mean([one.is_coarse for one in found])),
    )


def searches(num_searches: int) -> Iterator[Row]:
    """Every curve with every noise."""
    for name, curve in CURVES.items():
        for noise in NOISE:
            yield Row(name, noise, *(rule(curve, noise, of, num_searches) for of in (None, TOLERANCE)))


def searches_table(found: Iterable[Row]) -> str:
    """Markdown: trials, mean regret / its 95th percentile, and share of coarse searches, former -> now."""
    lines = [
        "| curve | noise | trials | regret in margins, mean (95%) | headroom above a quarter margin |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in found:
        trials, regret, coarse = (
            " → ".join(shown(one) for one in (row.fixed, row.adaptive))
            for shown in (
                lambda one: f"{one.trials:.1f}",
                lambda one: f"{one.regret:.3f} ({one.high_regret:.2f})",
                lambda one: f"{one.coarse:.0%}",
            )
        )
        lines.append(f"| {row.curve} | {row.noise:g} | {trials} | {regret} | {coarse} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(searches_table(searches(400)))
