"""The chance that more seeds would decide: whether an inconclusive arm is worth going on with.

Shapes: S seeds; N columns of a table.
"""

import numpy as np
from scipy import special

from tunewise.desk.arrays import Floats
from tunewise.desk.statistics.intervals import MeanSquares, has_interval, mean_squares, spread_of


def chance_of_negative(differences_SN: Floats, num_seeds: int, level: float) -> float:
    """The predictive chance that the upper end is below 0 after `num_seeds` seeds, of which S are known.

    0 if the table has no interval. See `predictive_chance`.
    """
    if not has_interval(differences_SN):
        return 0.0
    squares = mean_squares(differences_SN, differences_SN)
    return float(predictive_chance(differences_SN.mean(), squares, differences_SN.shape, num_seeds, level))


def predictive_chance(
    mean: float | Floats, squares: MeanSquares, shape: tuple[int, ...], num_seeds: int, level: float
) -> Floats:
    """P(upper end below 0 after `num_seeds` seeds) from means and mean squares of tables of this shape (S, N).

    The later mean is normal around today's, with the variance MS_seed / N (1/S - 1/num_seeds) of what the other seeds
    add on the same units; the variance components stay as estimated (Spiegelhalter, Abrams & Myles 2004, Bayesian
    Approaches to Clinical Trials, section 6.6, with a flat prior).
    """
    known, num_units = shape
    seed, unit = (np.maximum(square - squares.rest, 0) for square in (squares.seed, squares.unit))
    later = MeanSquares(seed + squares.rest, unit * num_seeds / known + squares.rest, squares.rest)
    spread = spread_of(later, num_seeds, num_units)
    reach = special.stdtrit(spread.freedom, 1 - level) * np.sqrt(spread.variance)
    moves = np.sqrt(np.maximum(squares.seed / num_units * (1 / known - 1 / num_seeds), np.finfo(np.float64).tiny))
    return np.asarray(special.ndtr((-mean - reach) / moves))
