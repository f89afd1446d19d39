"""Best learning rate of an arm as a multiple of full's, with its interval, if the search allows an estimate.

The bottom of a learning-rate curve is flat, so the best rate that was tried says little about the best there is. For
each search seed a parabola in the logarithm of the rate is fitted to the losses around the best, and its lowest point
is compared with full's of the same seed.

Shapes: S search seeds, R rates.
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy import special

from tunewise.desk.arrays import Floats
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.spread import ROUNDING

MIN_RATES = 5  # of full length, near the best
NEAR = 10.0  # factor from the best
MIN_SEARCH_SEEDS = 3

SeedLosses = Mapping[int, Mapping[float, float]]  # search seed -> rate -> loss, of the trials that ended


def rate_ratio(arm: SeedLosses, full: SeedLosses, confidence: float = 0.95) -> Estimate | None:
    """The ratio of the arm's best rate to full's, with a t interval over search seeds of its logarithm.

    None where it is not estimated: an arm has fewer than 5 rates within a factor of 10 of its best or fewer than 3
    search seeds, or a fitted parabola has no lowest point among the rates it was fitted to.
    """
    bottoms = [_bottoms(curves) for curves in (arm, full)]
    if bottoms[0] is None or bottoms[1] is None or arm.keys() != full.keys():
        return None
    logs_S = bottoms[0] - bottoms[1]
    mean = float(logs_S.mean())
    error = float(logs_S.std(ddof=1)) / math.sqrt(len(logs_S))
    half = float(special.stdtrit(len(logs_S) - 1, (1 + confidence) / 2)) * error
    return Estimate(estimate=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half))


def _bottoms(curves: SeedLosses) -> Floats | None:
    """ln of the best rate by search seed, S long; None if it cannot be estimated."""
    shared = set.intersection(*(set(losses) for losses in curves.values())) if curves else set()
    if len(curves) < MIN_SEARCH_SEEDS or not shared:
        return None
    best = min(shared, key=lambda rate: sum(losses[rate] for losses in curves.values()))
    near = sorted(rate for rate in shared if best / NEAR <= rate <= best * NEAR)
    if len(near) < MIN_RATES:
        return None
    places_R = np.log(np.array(near) / best)
    losses_RS = np.array([[curves[seed][rate] for seed in sorted(curves)] for rate in near])
    bend_S, slope_S, _ = np.polyfit(places_R, losses_RS, 2)
    if (bend_S <= ROUNDING * np.abs(losses_RS).max()).any():  # flat, or bent the wrong way
        return None
    bottoms_S: Floats = -slope_S / (2 * bend_S)
    inside = (bottoms_S >= places_R[0]) & (bottoms_S <= places_R[-1])
    return bottoms_S + math.log(best) if inside.all() else None
