"""Intervals of a mean over new seeds and new units, from a two-way table.

All seeds of all arms are scored on the same units, so seeds and units are crossed, and both are a sample: of the
trainings that could have been, and of the rows that the model will meet. An interval over seeds alone speaks of
this very test set, one over units alone of these very trainings.

Shapes: S seeds, N columns of a table (units, and for proportions the pseudo-units); `...` many studies at once.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from tunewise.desk.metrics import Floats
from tunewise.spec import Frozen

# Spread that is only rounding: far above the 1e-16 of float64, far below any difference that a model makes.
ROUNDING = 1e-12


class Estimate(Frozen):
    """A number and the ends of its interval; an end is None where it cannot be given."""

    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Components:
    """Where the variance of a mean comes from: three parts that sum to the squared standard error."""

    seed: float
    unit: float
    rest: float


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided interval. The ends are None where the data cannot give any."""

    estimate: float
    low: float | None
    high: float | None
    degrees_of_freedom: float | None
    standard_error: float | None
    components: Components | None
    num_seeds: int
    num_units: int

    def as_estimate(self) -> Estimate:
        """The mean and its ends alone."""
        return Estimate(estimate=self.estimate, low=self.low, high=self.high)


# --- the two-way interval


def two_way_interval(differences_SN: Floats, confidence: float = 0.95) -> Interval:
    """Interval of the mean of x[seed, unit] = mean + seed + unit + rest, for new seeds and new units.

    With the mean squares of the two-way table, a = max(MS_seed - MS_rest, 0), b = max(MS_unit - MS_rest, 0): the
    variance of the mean is (a + b + MS_rest) / (S N); a t quantile with Satterthwaite's degrees of freedom where a
    and b are positive, else S - 1 (b = 0), N - 1 (a = 0) or (S - 1)(N - 1) (both 0). Sources: Satterthwaite 1946
    (Biometrics 2); Searle, Casella & McCulloch 1992, Variance Components, chapter 4.

    The ends are None with one seed or one unit, whose part of the variance cannot be estimated, and where all
    differences are equal: that is no evidence of certainty.
    """
    num_seeds, num_units = differences_SN.shape
    assert np.isfinite(differences_SN).all(), "scores are finite"
    mean = float(differences_SN.mean())
    if min(num_seeds, num_units) < 2 or _all_equal(differences_SN):
        return Interval(mean, None, None, None, None, None, num_seeds, num_units)
    squares = mean_squares(differences_SN, differences_SN)
    spread = spread_of(squares, num_seeds, num_units)
    half = float(special.stdtrit(spread.freedom, (1 + confidence) / 2) * np.sqrt(spread.variance))
    cells = num_seeds * num_units
    return Interval(
        estimate=mean,
        low=mean - half,
        high=mean + half,
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


def probability_of_negative(differences_SN: Floats) -> float:
    """The one-sided p-value of "the mean is below 0": the smallest level at which the upper end is below 0.

    1 where the table gives no interval. That of "above 0" is the same of the negated table.
    """
    found = two_way_interval(differences_SN)
    if found.standard_error is None or found.degrees_of_freedom is None:
        return 1.0
    return float(special.stdtr(found.degrees_of_freedom, found.estimate / found.standard_error))


def unit_interval(differences_SN: Floats, confidence: float = 0.95) -> Interval:
    """Interval of the mean for new units and these very runs: a t interval over the units' means, N - 1 degrees.

    For what has no seeds (the base, an adapter from elsewhere), and for what one or two seeds lean to.
    The ends are None with one unit and where all units are equal.
    """
    num_seeds, num_units = differences_SN.shape
    by_unit = differences_SN.mean(axis=0)
    mean = float(by_unit.mean())
    if num_units < 2 or _all_equal(by_unit):
        return Interval(mean, None, None, None, None, None, num_seeds, num_units)
    error = float(by_unit.std(ddof=1)) / math.sqrt(num_units)
    half = float(special.stdtrit(num_units - 1, (1 + confidence) / 2)) * error
    return Interval(mean, mean - half, mean + half, num_units - 1, error, None, num_seeds, num_units)


def _all_equal(values: Floats) -> bool:
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


class MeanSquares(NamedTuple):
    """Of a two-way table, or of many."""

    seed: Floats
    unit: Floats
    rest: Floats


class Spread(NamedTuple):
    """How far a mean may be off, elementwise over tables."""

    variance: Floats  # of the mean
    freedom: Floats


def mean_squares(x_SN: Floats, y_SN: Floats) -> MeanSquares:
    """Mean squares of tables (..., S, N) where x is y, else mean cross products (so that squares are bilinear)."""
    num_seeds, num_units = x_SN.shape[-2:]

    def parts(table: Floats) -> tuple[Floats, Floats, Floats]:
        by_seed, by_unit = table.mean(axis=-1, keepdims=True), table.mean(axis=-2, keepdims=True)
        mean = by_seed.mean(axis=-2, keepdims=True)
        return by_seed - mean, by_unit - mean, table - by_seed - by_unit + mean

    of_x = parts(x_SN)
    of_y = of_x if y_SN is x_SN else parts(y_SN)
    seed, unit, rest = (np.einsum("...sn,...sn->...", x, y) for x, y in zip(of_x, of_y, strict=True))
    return MeanSquares(
        seed=num_units * seed / (num_seeds - 1),
        unit=num_seeds * unit / (num_units - 1),
        rest=rest / ((num_seeds - 1) * (num_units - 1)),
    )


def spread_of(squares: MeanSquares, num_seeds: int | Floats, num_units: int | Floats) -> Spread:
    """Variance of the mean and its degrees of freedom, elementwise over arrays of mean squares."""
    seed, unit = np.maximum(squares.seed - squares.rest, 0), np.maximum(squares.unit - squares.rest, 0)
    freedom_seed, freedom_unit = num_seeds - 1, num_units - 1
    freedom_rest = freedom_seed * freedom_unit
    total = squares.seed + squares.unit - squares.rest
    error = squares.seed**2 / freedom_seed + squares.unit**2 / freedom_unit + squares.rest**2 / freedom_rest
    both = (seed > 0) & (unit > 0)
    satterthwaite = total**2 / np.where(both, error, 1)
    freedom = np.select([both, seed > 0, unit > 0], [satterthwaite, freedom_seed, freedom_unit], freedom_rest)
    return Spread((seed + unit + squares.rest) / (num_seeds * num_units), np.asarray(freedom, dtype=np.float64))
