"""Intervals of a mean over new seeds and new units, from a two-way table.

All seeds of all arms are scored on the same units, so seeds and units are crossed. Both are samples: seeds of possible
training runs, units of rows that the model will see. An interval over seeds alone holds only for this test set, and one
over units alone only for these training runs.

Shapes: S seeds; N columns of a table (units, plus the pseudo-units of a proportion); `...` any number of tables.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from tunewise.desk.arrays import Floats
from tunewise.spec import Frozen

# Spread due to rounding only: far above the 1e-16 of float64, far below any real difference.
ROUNDING = 1e-12
# A few seeds may agree by chance: with 3 seeds, a seed component of half the variance is estimated as zero in one study
# of six. The degrees of freedom are then at most 4 (S - 1), Satterthwaite's value for seeds with half of the variance.
FREEDOM_PER_SEED = 4
CURVATURE = (special.ndtri(0.975) ** 2 - 1) / 6  # of the skewness of a t statistic, at its two-sided 95% points
# One-sided t tests err by about (2 z^2 + 1) phi(z) / 6 * g / sqrt(N) more than they should (first Edgeworth term,
# Hall 1992, The Bootstrap and Edgeworth Expansion, section 2.6): at N = 70 g^2 that is 1 point on top of 2.5%.
UNITS_PER_SQUARED_SKEWNESS = 70


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


def two_way_interval(differences_SN: Floats, confidence: float = 0.95) -> Interval:
    """Interval of the mean of x[seed, unit] = mean + seed + unit + rest, for new seeds and new units.

    Let a = max(MS_seed - MS_rest, 0) and b = max(MS_unit - MS_rest, 0), with the mean squares of the two-way table.
    The variance of the mean is (a + b + MS_rest) / (S N). The ends use a t quantile, with these degrees of freedom:

    - a and b positive: Satterthwaite's;
    - b = 0 and a positive: S - 1;
    - a = 0 and b positive: N - 1;
    - both 0: (S - 1)(N - 1).

    The last two are at most 4 (S - 1), unless all seeds are equal because nothing was trained. The end on the side of
    a longer tail is further out (`third_moment`). Sources: Satterthwaite 1946 (Biometrics 2); Searle, Casella &
    McCulloch 1992, Variance Components, chapter 4.

    The ends are None with one seed or one unit, because that part of the variance cannot be estimated. They are also
    None if all differences are equal, because that is not evidence of certainty.
    """
    num_seeds, num_units = differences_SN.shape
    assert np.isfinite(differences_SN).all(), "scores are finite"
    mean = float(differences_SN.mean())
    if not _has_interval(differences_SN):
        return Interval(mean, None, None, None, None, None, num_seeds, num_units)
    squares = mean_squares(differences_SN, differences_SN)
    spread = table_spread(differences_SN, squares)
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


def probability_of_negative(differences_SN: Floats) -> float:
    """The one-sided p-value of "the mean is below 0": the smallest level at which the upper end is below 0.

    1 if the table has no interval. For "above 0", negate the table.
    """
    assert np.isfinite(differences_SN).all(), "scores are finite"
    if not _has_interval(differences_SN):
        return 1.0
    return float(table_spread(differences_SN).probability_of_negative(differences_SN.mean()))


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


def _has_interval(differences_SN: Floats) -> bool:
    return min(differences_SN.shape) > 1 and not _all_equal(differences_SN)


def _all_equal(values: Floats) -> bool:
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


class MeanSquares(NamedTuple):
    """Mean squares of one two-way table, or of many."""

    seed: Floats
    unit: Floats
    rest: Floats


@dataclass(frozen=True)
class Spread:
    """Uncertainty of a mean, elementwise over tables."""

    variance: Floats  # of the mean
    freedom: Floats
    tail: Floats  # standard errors by which the upper end is beyond its t quantile; negative: the lower end

    def reach(self, confidence: float | Floats) -> tuple[Floats, Floats]:
        """Distance of the ends of the interval below and above the mean."""
        quantile: Floats = np.asarray(special.stdtrit(self.freedom, (1 + confidence) / 2), dtype=np.float64)
        error = np.sqrt(self.variance)
        return (quantile + np.maximum(-self.tail, 0)) * error, (quantile + np.maximum(self.tail, 0)) * error

    def probability_of_negative(self, mean: float | Floats) -> Floats:
        """The smallest one-sided level at which the upper end around this mean is below 0."""
        return np.asarray(special.stdtr(self.freedom, mean / np.sqrt(self.variance) + np.maximum(self.tail, 0)))


def mean_squares(x_SN: Floats, y_SN: Floats) -> MeanSquares:
    """Mean squares of tables (..., S, N) if x is y, else mean cross products, which makes mean squares bilinear."""
    num_seeds, num_units = x_SN.shape[-2:]
    of_x = _parts(x_SN)
    of_y = of_x if y_SN is x_SN else _parts(y_SN)
    seed, unit, rest = (np.einsum("...sn,...sn->...", x, y) for x, y in zip(of_x, of_y, strict=True))
    return MeanSquares(
        seed=num_units * seed / (num_seeds - 1),
        unit=num_seeds * unit / (num_units - 1),
        rest=rest / ((num_seeds - 1) * (num_units - 1)),
    )


def third_moment(x_SN: Floats, y_SN: Floats, z_SN: Floats) -> Floats:
    """The asymmetry of a t interval of the mean of x (= y = z), for tables (..., S, N).

    Divided by the cubed standard error, it is the shift of one end in standard errors. It is trilinear, as mean squares
    are bilinear.

    Without it, the interval misses long tails, because the mean is correlated with its own estimated variance. Suppose
    that few units carry most of the mean, or that worse seeds are worse in proportion to the difficulty of a unit. Then
    a mean that is too low has an interval that is too short.

    Let k be the third cumulant of the mean, and c its covariance with the estimate of its variance, both in standard
    errors. The quantiles of the t statistic move by c / 2 + (3 c - k) (z^2 - 1) / 6. This is the first Cornish-Fisher
    term (Hall 1992, The Bootstrap and Edgeworth Expansion, sections 2.3 to 2.6). Units contribute c = k = their third
    moment / N^2. Seeds by units contribute k = 6 and c = 4 times the mean of seed x unit x rest / (S N), the term of
    Tukey 1949 (Biometrics 5). The contribution of seeds alone cannot be estimated from so few seeds.
    """
    num_seeds, num_units = x_SN.shape[-2:]
    seed, unit_x, _ = of_x = _parts(x_SN)
    _, unit_y, _ = of_y = of_x if y_SN is x_SN else _parts(y_SN)
    _, unit_z, rest = of_y if z_SN is y_SN else _parts(z_SN)
    freedom_unit = max((num_units - 1) * (num_units - 2), 1)
    units = (unit_x * unit_y * unit_z).sum(axis=(-2, -1)) / (num_units * freedom_unit)
    both = (np.swapaxes(seed, -1, -2) @ rest * unit_y).sum(axis=(-2, -1))
    both = both / ((num_seeds - 1) * (num_units - 1) * num_seeds * num_units)
    shift: Floats = (1 / 2 + 2 * CURVATURE) * units + (4 / 2 + 6 * CURVATURE) * both
    return shift


def _parts(table_SN: Floats) -> tuple[Floats, Floats, Floats]:
    """Effects of seeds (..., S, 1) and units (..., 1, N), and the rest (..., S, N), all without the overall mean."""
    by_seed, by_unit = table_SN.mean(axis=-1, keepdims=True), table_SN.mean(axis=-2, keepdims=True)
    mean = by_seed.mean(axis=-2, keepdims=True)
    return by_seed - mean, by_unit - mean, table_SN - by_seed - by_unit + mean


def table_spread(x_SN: Floats, squares: MeanSquares | None = None) -> Spread:
    """Uncertainty of the means of tables (..., S, N). `squares`: their mean squares; None: compute them."""
    num_seeds, num_units = x_SN.shape[-2:]
    return spread_of(squares or mean_squares(x_SN, x_SN), num_seeds, num_units, third_moment(x_SN, x_SN, x_SN))


def spread_of(
    squares: MeanSquares, num_seeds: int | Floats, num_units: int | Floats, third: float | Floats = 0.0
) -> Spread:
    """Variance of the mean, its degrees of freedom and its tail, elementwise over arrays of mean squares."""
    seed, unit = np.maximum(squares.seed - squares.rest, 0), np.maximum(squares.unit - squares.rest, 0)
    freedom_seed, freedom_unit = num_seeds - 1, num_units - 1
    freedom_rest = freedom_seed * freedom_unit
    is_drawn = squares.seed > ROUNDING * (squares.seed + squares.unit)
    most = np.where(is_drawn, FREEDOM_PER_SEED * freedom_seed, np.inf)
    total = squares.seed + squares.unit - squares.rest
    error = squares.seed**2 / freedom_seed + squares.unit**2 / freedom_unit + squares.rest**2 / freedom_rest
    both = (seed > 0) & (unit > 0)
    satterthwaite = total**2 / np.where(both, error, 1)
    freedom = np.select(
        [both, seed > 0, unit > 0],
        [satterthwaite, freedom_seed, np.minimum(freedom_unit, most)],
        np.minimum(freedom_rest, most),
    )
    variance = np.asarray((seed + unit + squares.rest) / (num_seeds * num_units))
    tail = third / np.where(variance > 0, variance, 1) ** 1.5
    return Spread(variance, np.asarray(freedom, dtype=np.float64), np.asarray(tail, dtype=np.float64))


def has_harmful_tail(harm_SN: Floats, num_units: int) -> npt.NDArray[np.bool_]:
    """Whether a tail of units with large quality losses makes the upper end too low; for tables (..., S, N)."""
    by_unit = harm_SN.mean(axis=-2)
    deviations = by_unit - by_unit.mean(axis=-1, keepdims=True)
    spread = np.sqrt((deviations**2).mean(axis=-1))
    skewness = (deviations**3).mean(axis=-1) / np.where(spread > 0, spread, 1) ** 3
    found: npt.NDArray[np.bool_] = (skewness > 0) & (num_units < UNITS_PER_SQUARED_SKEWNESS * skewness**2)
    return found
