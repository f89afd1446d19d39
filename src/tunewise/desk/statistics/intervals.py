"""Intervals of a mean over new seeds and new units, from a two-way table.

All seeds of all arms are scored on the same units, so seeds and units are crossed. Both are samples: seeds of possible
training runs, units of rows that the model will see. An interval over seeds alone holds only for this test set, and one
over units alone only for these training runs.

Shapes: S seeds; N columns of a table (units, plus the pseudo-units of a proportion); `...` any number of tables.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from tunewise.desk.arrays import Floats
from tunewise.desk.statistics.spread import ROUNDING, mean_squares, table_spread
from tunewise.spec import Frozen


class Estimate(Frozen):
    """A number and the ends of its interval; an end is None if it cannot be computed."""

    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Components:
    """Variance components of a mean: three parts that sum to the squared standard error."""

    seed: float
    unit: float
    rest: float


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided interval. The ends are None if they cannot be computed."""

    estimate: float
    low: float | None
    high: float | None
    degrees_of_freedom: float | None
    standard_error: float | None
    components: Components | None
    num_seeds: int
    num_units: int

    def as_estimate(self) -> Estimate:
        """The mean and its ends."""
        return Estimate(estimate=self.estimate, low=self.low, high=self.high)


# --- the two-way interval


def two_way_interval(
    differences_SN: Floats, confidence: float = 0.95, most_freedom: float = math.inf, guarded: bool = True
) -> Interval:
    """Interval of the mean of x[seed, unit] = mean + seed + unit + rest, for new seeds and new units.

    With the mean squares of the two-way table, let a = max(MS_seed, MS_rest) and b = max(MS_unit, MS_rest). The
    variance of the mean is (a + b - MS_rest) / (S N). The ends use a t quantile with Satterthwaite's degrees of freedom
    for a, b and MS_rest. They are at least the smaller of S - 1 and N - 1, and at most 4 (S - 1) (a / MS_rest)^2: with
    few seeds, a small seed component is not known to be small. Sources: Satterthwaite 1946 (Biometrics 2); Searle,
    Casella & McCulloch 1992, Variance Components, chapter 4.

    The end on the side of a longer tail is further out (`third_moments`). If so few units carry the mean that this is
    not enough, it reaches up to twice as far (not if `guarded` is false). `most_freedom` limits the degrees of freedom.

    The ends are None with one seed or one unit, because that part of the variance cannot be estimated. They are also
    None if all differences are equal, because that is not evidence of certainty.
    """
    num_seeds, num_units = differences_SN.shape
    assert np.isfinite(differences_SN).all(), "scores are finite"
    mean = float(differences_SN.mean())
    if not has_interval(differences_SN):
        return Interval(mean, None, None, None, None, None, num_seeds, num_units)
    squares = mean_squares(differences_SN, differences_SN)
    spread = table_spread(differences_SN, squares).at_most(most_freedom)
    if not guarded:
        spread = replace(spread, stretch_below=np.ones(()), stretch_above=np.ones(()))
    below, above = spread.reach(confidence)
    cells = num_seeds * num_units
    return Interval(
        estimate=mean,
        low=mean - float(below),
        high=mean + float(above),
        degrees_of_freedom=float(spread.freedom),
        standard_error=math.sqrt(spread.variance),
        components=Components(
            seed=max(float(squares.seed - squares.rest), 0.0) / cells,
            unit=max(float(squares.unit - squares.rest), 0.0) / cells,
            rest=float(squares.rest) / cells,
        ),
        num_seeds=num_seeds,
        num_units=num_units,
    )


def probability_of_negative(differences_SN: Floats, most_freedom: float = math.inf) -> float:
    """The one-sided p-value of "the mean is below 0": the smallest level at which the upper end is below 0.

    1 if the table has no interval. For "above 0", negate the table.
    """
    assert np.isfinite(differences_SN).all(), "scores are finite"
    if not has_interval(differences_SN):
        return 1.0
    spread = table_spread(differences_SN).at_most(most_freedom)
    return float(spread.probability_of_negative(differences_SN.mean()))


def unit_interval(differences_SN: Floats, confidence: float = 0.95) -> Interval:
    """Interval of the mean for new units and these runs: a t interval over the units' means, N - 1 degrees of freedom.

    Used for models without seeds (the base, an adapter from elsewhere), and for the lean of one or two seeds.
    The ends are None with one unit, and if all units are equal.
    """
    num_seeds, num_units = differences_SN.shape
    by_unit = differences_SN.mean(axis=0)
    mean = float(by_unit.mean())
    if num_units < 2 or _all_equal(by_unit):
        return Interval(mean, None, None, None, None, None, num_seeds, num_units)
    error = float(by_unit.std(ddof=1)) / math.sqrt(num_units)
    half = float(special.stdtrit(num_units - 1, (1 + confidence) / 2)) * error
    return Interval(mean, mean - half, mean + half, num_units - 1, error, None, num_seeds, num_units)


def has_interval(differences_SN: Floats) -> bool:
    """Whether there are two seeds and two units, and not all differences are equal."""
    return min(differences_SN.shape) > 1 and not _all_equal(differences_SN)


def _all_equal(values: Floats) -> bool:
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())
