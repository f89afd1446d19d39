"""The share of full's gain that an arm keeps."""

import math
from itertools import product

import numpy as np
from scipy import optimize

from tunewise.desk.arrays import Floats
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.paired import Contrast
from tunewise.desk.statistics.spread import MeanSquares, ThirdMoments, mean_squares, spread_of, third_moments


def gain_kept(arm_minus_base: Contrast, arm_minus_full: Contrast, confidence: float = 0.95) -> Estimate:
    """The share of full's gain that an arm keeps, (arm - base) / (full - base), with its Fieller set.

    The Fieller set holds every rho for which the two-way interval of arm - rho full - (1 - rho) base contains 0. `low`
    and `high` are its smallest and largest member; an end is None if the set has none. Meaningful only if full's gain
    is measurable. Source: Fieller 1954 (J. Royal Statistical Society B 16).
    """
    at_none, at_full = arm_minus_base.values_SN, arm_minus_full.values_SN
    gain_SN = at_none - at_full  # full - base; the contrast is affine in rho: at_none - rho gain
    num_seeds, num_columns = gain_SN.shape
    squares = [mean_squares(x, y) for x, y in ((at_none, at_none), (at_none, gain_SN), (gain_SN, gain_SN))]
    cubics = np.zeros((4, 2))  # the third moments of the contrast, by powers of rho
    for picked in product((0, 1), repeat=3):
        cubics[sum(picked)] += (-1) ** sum(picked) * np.array(
            third_moments(*((at_none, gain_SN)[which] for which in picked))
        )

    def outside(rho: Floats) -> Floats:
        """A number above 0 if the interval of the contrast at rho does not contain 0."""
        quadratic = (np.maximum(a - 2 * rho * b + rho**2 * c, 0) for a, b, c in zip(*squares, strict=True))
        third = ThirdMoments(*np.polynomial.polynomial.polyval(rho, cubics))
        below, above = spread_of(MeanSquares(*quadratic), num_seeds, num_columns, third).reach(confidence)
        mean = at_none.mean() - rho * gain_SN.mean()
        return np.asarray(np.maximum(mean - below, -mean - above))

    centre = at_none.mean() / gain_SN.mean()
    width = -float(outside(np.array(centre))) / abs(gain_SN.mean()) or 1.0
    # Equal angles cover the range from the center to both infinities. The degrees of freedom and the skewness change
    # with rho, so the set is not exactly quadratic and has to be searched for everywhere.
    grid = centre + width * np.tan(np.linspace(-1, 1, 4001) * (math.pi / 2 - 1e-6))
    members = np.flatnonzero(outside(grid) <= 0)
    estimate = arm_minus_base.estimate / (arm_minus_base.estimate - arm_minus_full.estimate)
    if len(members) == 0:  # the only spread is rounding
        return Estimate(estimate=estimate, low=None, high=None)

    def end(inner: int, outer: int) -> float | None:
        if not 0 <= outer < len(grid):
            return None
        return float(optimize.brentq(lambda rho: float(outside(np.array(rho))), grid[inner], grid[outer]))

    return Estimate(estimate=estimate, low=end(members[0], members[0] - 1), high=end(members[-1], members[-1] + 1))
