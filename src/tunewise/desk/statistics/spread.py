"""Uncertainty of the mean of a two-way table: variance, degrees of freedom and asymmetry, for many tables at once.

Shapes: S seeds; N columns of a table; `...` any number of tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import special

from tunewise.desk.arrays import Floats

# Spread due to rounding only: far above the 1e-16 of float64, far below any real difference.
ROUNDING = 1e-12
# A few seeds may agree by chance: with 3 seeds, a seed component of half the variance is estimated as zero in one study
# of six. The degrees of freedom are then at most 4 (S - 1), Satterthwaite's value for seeds with half of the variance.
FREEDOM_PER_SEED = 4
# One-sided t tests err by about (2 z^2 + 1) phi(z) / 6 * g / sqrt(N) more than they should (first Edgeworth term,
# Hall 1992, The Bootstrap and Edgeworth Expansion, section 2.6): at N = 70 g^2 that is 1 point on top of 2.5%.
UNITS_PER_SQUARED_SKEWNESS = 70
MOST_STRETCH = 2.0  # of the end on the side of a longer tail of units
NEWTON_STEPS = 12
MOST_NORMAL = 37.0  # the largest z whose tail float64 can hold


class MeanSquares(NamedTuple):
    """Mean squares of one two-way table, or of many."""

    seed: Floats
    unit: Floats
    rest: Floats


class ThirdMoments(NamedTuple):
    """Third moments of the mean of one two-way table, or of many."""

    units: Floats  # of the units' effects
    both: Floats  # of seed x unit x rest


@dataclass(frozen=True)
class Spread:
    """Uncertainty of a mean, elementwise over tables."""

    variance: Floats  # of the mean
    freedom: Floats
    # The upper end is shift + bend (z^2 - 1) / 6 standard errors beyond its t quantile, z the normal quantile of its
    # level; if that is negative, the lower end is.
    shift: Floats
    bend: Floats
    stretch_below: Floats  # factors of the reach
    stretch_above: Floats

    def reach(self, confidence: float | Floats) -> tuple[Floats, Floats]:
        """Distance of the ends of the interval below and above the mean."""
        quantile: Floats = np.asarray(special.stdtrit(self.freedom, (1 + confidence) / 2), dtype=np.float64)
        z = special.ndtri((1 + np.asarray(confidence)) / 2)
        error = np.sqrt(self.variance)
        below = self.stretch_below * (quantile + _beyond(z, -self.shift, -self.bend)) * error
        return below, self.stretch_above * (quantile + _beyond(z, self.shift, self.bend)) * error

    def probability_of_negative(self, mean: float | Floats) -> Floats:
        """The smallest one-sided level at which the upper end around this mean is below 0."""
        wanted = -np.asarray(mean) / (np.sqrt(self.variance) * self.stretch_above)
        # Below the median the correction is constant. Above it, quantile and correction are convex in z, so that
        # Newton's method, begun where the quantile alone is enough, falls to the solution.
        constant = _beyond(np.zeros(()), self.shift, self.bend)
        z = np.maximum(-special.ndtri(special.stdtr(self.freedom, -np.maximum(wanted, 0))), 0)
        z = np.minimum(z, MOST_NORMAL)
        for _ in range(NEWTON_STEPS if np.any(self.shift) or np.any(self.bend) else 0):
            quantile = -special.stdtrit(self.freedom, special.ndtr(-z))
            slope = _slope_of_t(z, quantile, self.freedom) + _slope_beyond(z, self.shift, self.bend)
            z = np.clip(z - (quantile + _beyond(z, self.shift, self.bend) - wanted) / slope, 0, MOST_NORMAL)
        beyond = np.where(wanted <= constant, constant, _beyond(z, self.shift, self.bend))
        return np.asarray(special.stdtr(self.freedom, beyond - wanted))

    def at_most(self, freedom: float) -> "Spread":
        """The spread with no more than these degrees of freedom."""
        return replace(self, freedom=np.minimum(self.freedom, freedom))

    def mirrored(self) -> "Spread":
        """The spread of the negated tables."""
        sides = {"stretch_below": self.stretch_above, "stretch_above": self.stretch_below}
        return replace(self, shift=-self.shift, bend=-self.bend, **sides)


def _beyond(z: Floats, shift: Floats, bend: Floats) -> Floats:
    """Standard errors beyond the t quantile: never negative, and never less at a stricter level."""
    bend = np.where((shift > 0) & (bend < 0), 0, bend)
    return np.asarray(np.maximum(shift + bend * (np.maximum(z, 0) ** 2 - 1) / 6, 0))


def _slope_beyond(z: Floats, shift: Floats, bend: Floats) -> Floats:
    return np.asarray(np.where(_beyond(z, shift, bend) > 0, np.maximum(bend, 0) * z / 3, 0))


def _slope_of_t(z: Floats, quantile: Floats, freedom: Floats) -> Floats:
    """The derivative of the t quantile by the normal quantile z of the same level: the ratio of the densities."""
    log_t = special.gammaln((freedom + 1) / 2) - special.gammaln(freedom / 2) - np.log(freedom * np.pi) / 2
    log_t = log_t - (freedom + 1) / 2 * np.log1p(quantile**2 / freedom)
    return np.asarray(np.exp(-(z**2) / 2 - np.log(2 * np.pi) / 2 - log_t))


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


def third_moments(x_SN: Floats, y_SN: Floats, z_SN: Floats) -> ThirdMoments:
    """The asymmetry of the mean of x (= y = z), for tables (..., S, N).

    They are trilinear, as mean squares are bilinear. Without them, the interval misses long tails, because the mean is
    correlated with its own estimated variance. Suppose that few units carry most of the mean, or that worse seeds are
    worse in proportion to the difficulty of a unit. Then a mean that is too low has an interval that is too short.

    Units contribute their third moment / N^2; seeds by units the mean of seed x unit x rest / (S N), the term of Tukey
    1949 (Biometrics 5). The contribution of seeds alone cannot be estimated from so few seeds.
    """
    num_seeds, num_units = x_SN.shape[-2:]
    seed, unit_x, _ = of_x = _parts(x_SN)
    _, unit_y, _ = of_y = of_x if y_SN is x_SN else _parts(y_SN)
    _, unit_z, rest = of_y if z_SN is y_SN else _parts(z_SN)
    freedom_unit = max((num_units - 1) * (num_units - 2), 1)
    units = (unit_x * unit_y * unit_z).sum(axis=(-2, -1)) / (num_units * freedom_unit)
    both = (np.swapaxes(seed, -1, -2) @ rest * unit_y).sum(axis=(-2, -1))
    return ThirdMoments(units, both / ((num_seeds - 1) * (num_units - 1) * num_seeds * num_units))


def _parts(table_SN: Floats) -> tuple[Floats, Floats, Floats]:
    """Effects of seeds (..., S, 1) and units (..., 1, N), and the rest (..., S, N), all without the overall mean."""
    by_seed, by_unit = table_SN.mean(axis=-1, keepdims=True), table_SN.mean(axis=-2, keepdims=True)
    mean = by_seed.mean(axis=-2, keepdims=True)
    return by_seed - mean, by_unit - mean, table_SN - by_seed - by_unit + mean


def table_spread(x_SN: Floats, squares: MeanSquares | None = None) -> Spread:
    """Uncertainty of the means of tables (..., S, N). `squares`: their mean squares; None: compute them."""
    num_seeds, num_units = x_SN.shape[-2:]
    return spread_of(squares or mean_squares(x_SN, x_SN), num_seeds, num_units, third_moments(x_SN, x_SN, x_SN))


NO_ASYMMETRY = ThirdMoments(np.zeros(()), np.zeros(()))


def spread_of(
    squares: MeanSquares, num_seeds: int | Floats, num_units: int | Floats, third: ThirdMoments = NO_ASYMMETRY
) -> Spread:
    """Variance of the mean, its degrees of freedom and its asymmetry, elementwise over arrays of moments.

    Let k be the third cumulant of the mean, and c its covariance with the estimate of its variance, both in standard
    errors. The quantiles of the t statistic move by c / 2 + (3 c - k) (z^2 - 1) / 6. This is the first Cornish-Fisher
    term (Hall 1992, The Bootstrap and Edgeworth Expansion, sections 2.3 to 2.6). Units contribute c = k = their third
    moment, seeds by units k = 6 and c = 4 times theirs.
    """
    rest = squares.rest
    seed, unit = np.maximum(squares.seed, rest), np.maximum(squares.unit, rest)
    freedom_seed, freedom_unit = num_seeds - 1, num_units - 1
    total = seed + unit - rest
    error = seed**2 / freedom_seed + unit**2 / freedom_unit + rest**2 / (freedom_seed * freedom_unit)
    smallest = ROUNDING * total
    most = _most_freedom(seed, rest, smallest, freedom_seed)
    least = np.minimum(freedom_seed, freedom_unit)  # what Satterthwaite's formula gives for any sum, but not for - rest
    freedom = np.clip(total**2 / np.where(error > 0, error, 1), least, most)
    variance = np.asarray(total / (num_seeds * num_units))
    cubed = np.where(variance > 0, variance, 1) ** 1.5
    stretch = _stretch(squares, num_seeds, num_units, third)
    return _spread(variance, freedom, ThirdMoments(third.units / cubed, third.both / cubed), stretch)


def summed_spread(tables: Sequence[Floats]) -> Spread:
    """Uncertainty of the sum of the means of tables (..., S_k, N) on the same units, each with seeds of its own.

    Of one table it is `table_spread`. Of x and -y it is that of a difference of arms whose seeds are not paired or not
    equally many. With a_k = max(MS_seed, MS_rest) / (S_k N) of table k, r the sum of all MS_rest / (S_k N) and V the
    variance of the summed unit means, the variance is the sum of all a_k, plus max(V / N, r), minus r. Satterthwaite's
    degrees of freedom are, for the seeds alone, those of Welch 1947 (Biometrika 34); they take the place of S - 1 in
    the cap. Units are those of the sum, so their asymmetry is; the terms of seeds by units add.

    Tables of one row are of fixed runs: if all are, only units vary, with N - 1 degrees of freedom.
    """
    num_units, nothing = tables[0].shape[-1], np.zeros(tables[0].shape[:-2])
    unit = sum((_parts(table)[1] for table in tables), np.zeros(()))
    of_units = (unit**2).sum(axis=(-2, -1)) / ((num_units - 1) * num_units)
    drawn = [_drawn(table, unit) for table in tables if table.shape[-2] > 1]
    seed, rest = sum((of.seed for of in drawn), nothing), sum((of.rest for of in drawn), nothing)
    more = np.maximum(of_units, rest)
    total = seed + more - rest
    of_seeds = sum((of.seed**2 / of.freedom for of in drawn), nothing)
    of_rest = sum((of.rest**2 / (of.freedom * (num_units - 1)) for of in drawn), nothing)
    error = of_seeds + more**2 / (num_units - 1) + of_rest
    least = min([num_units - 1, *(of.freedom for of in drawn)])
    welch = seed**2 / np.where(of_seeds > 0, of_seeds, 1)
    most = _most_freedom(seed, rest, ROUNDING * total, welch) if drawn else np.inf
    freedom = np.clip(total**2 / np.where(error > 0, error, 1), least, np.maximum(most, least))
    cubed = np.where(total > 0, total, 1) ** 1.5
    third = ThirdMoments(
        units=(unit**3).sum(axis=(-2, -1)) / (num_units * max((num_units - 1) * (num_units - 2), 1)),
        both=sum((of.both for of in drawn), nothing),
    )
    stretch = _stretch(MeanSquares(seed * num_units, of_units * num_units, rest * num_units), 1, num_units, third)
    return _spread(total, freedom, ThirdMoments(third.units / cubed, third.both / cubed), stretch)


class _Drawn(NamedTuple):
    """What one table of several seeds adds to the variance and the asymmetry of a sum of means."""

    freedom: int
    seed: Floats  # max(MS_seed, MS_rest) / (S N)
    rest: Floats  # MS_rest / (S N)
    both: Floats


def _drawn(table_SN: Floats, unit: Floats) -> _Drawn:
    """`unit`: the effects of the units of the sum, (..., 1, N)."""
    num_seeds, num_units = table_SN.shape[-2:]
    seed, _, rest = _parts(table_SN)
    freedom, scale = num_seeds - 1, (num_seeds - 1) * (num_units - 1) * num_seeds * num_units
    own = (rest**2).sum(axis=(-2, -1)) / scale
    both = (np.swapaxes(seed, -1, -2) @ rest * unit).sum(axis=(-2, -1)) / scale
    return _Drawn(freedom, np.maximum((seed**2).sum(axis=(-2, -1)) / (freedom * num_seeds), own), own, both)


def _most_freedom(seed: Floats, rest: Floats, smallest: Floats, freedom_seed: int | Floats) -> Floats:
    """The cap of the degrees of freedom; none if the seeds' part is known to be all, up to rounding (`smallest`)."""
    is_known = seed > rest + smallest  # else a / MS_rest is 1, or a quotient of rounding errors
    apart = np.where(is_known, seed / np.where(rest > 0, rest, np.inf), 1)
    return np.where(is_known & (rest <= smallest), np.inf, FREEDOM_PER_SEED * freedom_seed * apart**2)


def _spread(variance: Floats, freedom: Floats, third: ThirdMoments, stretch: Floats) -> Spread:
    """A spread from its parts; the third moments are in standard errors."""
    return Spread(
        variance=variance,
        freedom=np.asarray(freedom, dtype=np.float64),
        shift=np.asarray(third.units / 2 + 2 * third.both, dtype=np.float64),
        bend=np.asarray(2 * third.units + 6 * third.both, dtype=np.float64),
        stretch_below=np.where(third.units < 0, stretch, 1.0),
        stretch_above=np.where(third.units > 0, stretch, 1.0),
    )


def _stretch(squares: MeanSquares, num_seeds: int | Floats, num_units: int | Floats, third: ThirdMoments) -> Floats:
    """Factor of the reach towards the longer tail: 1 with 70 units per squared skewness of their effects, 2 with 35.

    Continuous, so that no interval doubles on nothing. Below 35 it stays at 2.
    """
    is_spread = squares.unit > ROUNDING * (squares.seed + squares.rest)  # more than rounding
    deviation = np.sqrt(np.where(is_spread, squares.unit, 1) * (num_units - 1) / (num_seeds * num_units))
    skewness = np.where(is_spread, third.units, 0) * (num_units - 1) * (num_units - 2) / deviation**3
    return np.asarray(np.clip(UNITS_PER_SQUARED_SKEWNESS * skewness**2 / num_units, 1, MOST_STRETCH))
