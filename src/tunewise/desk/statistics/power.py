"""Power calculations: the margin that given seeds and units resolve, and the size of a new study."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import optimize, special

from tunewise.desk.arrays import Floats
from tunewise.desk.statistics.intervals import Components, has_interval
from tunewise.desk.statistics.spread import MeanSquares, mean_squares, spread_of
from tunewise.spec import Frozen

MIN_SEEDS = 3  # with fewer, no verdict
MIN_UNITS = 10
MOST_SEEDS = 50  # largest number suggested for a new study
MOST_UNITS = 10**9
POWER = 0.8
ONE_SIDED_ERROR = 0.025  # of each outcome at the last look
# Quantiles of the range: each mean square varies as its chi-squared distribution does in 8 of 10 studies.
RANGE = (0.1, 0.9)
# Standard deviation of arm - full over units, assumed before any run: of the NLL per token on E2E (8 LoRA arms, 300
# rows: 0.12 to 0.18), of the NLL of a classification on TREC and SST-2 (0.63), of accuracy there (0.24 and 0.34).
ASSUMED_TOKEN_SD, ASSUMED_CLASS_SD = {"nll": 0.16}, {"nll": 0.63, "accuracy": 0.3}


def assumed_unit_sd(metric: str, has_classes: bool) -> float | None:
    """The standard deviation of arm - full over units assumed before any run; None: not known for this metric."""
    return (ASSUMED_CLASS_SD if has_classes else ASSUMED_TOKEN_SD).get(metric)


def strictest_level(num_arms: int) -> float:
    """The one-sided error that Holm allows the first of K arms at the last look: 2.5% / K."""
    return ONE_SIDED_ERROR / max(num_arms, 1)


def smallest_margin(
    num_units: int, num_seeds: int, unit_sd: float, seed_sd: float = 0.0, level: float = ONE_SIDED_ERROR
) -> float:
    """The smallest margin at which an arm that truly equals full is found as good in 80% of studies.

    The margin is in units of the metric. `unit_sd` is the standard deviation of arm - full over units, `seed_sd` that
    over seeds. `seed_sd` is not known before any run; 0 is the best case. `level` is the one-sided error: of K arms,
    Holm allows one alone 2.5% / K.

    With v = unit_sd^2 / N + seed_sd^2 / S, the margin is about sqrt(7.85 v), where 7.85 = (1.96 + 0.84)^2; exactly, see
    `power`. Infinite with fewer than 3 seeds or 10 units, because no margin is resolved then.
    """
    if num_seeds < MIN_SEEDS or num_units < MIN_UNITS:
        return math.inf
    parts = Components(seed=seed_sd**2 / num_seeds, unit=unit_sd**2 / num_units, rest=0.0)
    error = math.sqrt(parts.seed + parts.unit)
    assert error > 0, "differences vary"

    def lacking(errors: float) -> float:
        return POWER - float(power(parts, num_seeds, num_units, errors * error, level))

    return float(optimize.brentq(lacking, 0, 300)) * error


def chance_of_as_good(
    num_units: int, num_seeds: int, unit_sd: float, margin: float, level: float = ONE_SIDED_ERROR
) -> float:
    """P("as good") of a study whose arms are truly equal and differ by units only (no spread over seeds)."""
    if num_seeds < MIN_SEEDS or num_units < MIN_UNITS:
        return 0.0
    parts = Components(seed=0.0, unit=unit_sd**2 / num_units, rest=0.0)
    return float(power(parts, num_seeds, num_units, margin, level))


class Needed(Frozen):
    """Size of a new study that finds truly equal arms "as good" with 80% probability.

    Counted in seeds, on as many units as now; or in units, if 50 seeds on these units are not enough.
    None: more than 50 seeds would be needed, or no number of units is enough.
    """

    kind: Literal["seeds", "units"]
    likely: int | None
    fewest: int | None  # the 80% range, from the uncertainty of the variance components
    most: int | None
    beside: int  # the number of units if the kind is "seeds", of seeds if it is "units"


def needed(found: Components, num_seeds: int, num_units: int, margin: float, level: float = ONE_SIDED_ERROR) -> Needed:
    """Size of a new study, from the variance components that this one (S seeds, N units) found.

    It is the smallest S in 3..50 with P(U < margin) >= 0.8 on the same units, U being the upper end. There may be none:
    more than 50 seeds would be needed, or the unit component b'/N is so large (7.85 b'/N > margin^2) that no number of
    seeds is enough. Then it is the smallest N, with as many seeds as now if possible, else with 50.
    """
    scenarios = (found, *(_scenario(found, num_seeds, num_units, quantile) for quantile in reversed(RANGE)))
    seeds = [_seeds_needed(parts, num_seeds, num_units, margin, level) for parts in scenarios]
    if seeds[0] is not None:
        return Needed(kind="seeds", likely=seeds[0], fewest=seeds[1], most=seeds[2], beside=num_units)
    for beside in (max(num_seeds, MIN_SEEDS), MOST_SEEDS):
        new = [_at(parts, num_seeds / beside, 1.0) for parts in scenarios]
        units = [_units_needed(parts, beside, num_units, margin, level) for parts in new]
        if units[0] is not None:
            break
    return Needed(kind="units", likely=units[0], fewest=units[1], most=units[2], beside=beside)


def power(
    parts: Components, num_seeds: Floats | int, num_units: Floats | int, margin: float, level: float = ONE_SIDED_ERROR
) -> Floats:
    """P(U < margin) of a study with these variance components whose arms are truly equal; elementwise.

    The upper end U is below the margin if a noncentral t, with noncentrality margin / standard error, exceeds the t
    quantile (Julious 2004, Statistics in Medicine 23, section 5).
    """
    cells = np.asarray(num_seeds * num_units, dtype=np.float64)
    squares = MeanSquares(
        seed=(parts.seed + parts.rest) * cells, unit=(parts.unit + parts.rest) * cells, rest=parts.rest * cells
    )
    spread = spread_of(squares, num_seeds, num_units)
    critical = special.stdtrit(spread.freedom, 1 - level)
    missed = special.nctdtr(spread.freedom, margin / np.sqrt(spread.variance), critical)
    return np.asarray(1 - np.nan_to_num(missed))  # scipy gives nan for some noncentralities whose value is below 1e-50


def _at(parts: Components, seed_factor: float, unit_factor: float) -> Components:
    """The components of a mean over other numbers of seeds and units; each factor is old number / new number."""
    return Components(
        seed=parts.seed * seed_factor, unit=parts.unit * unit_factor, rest=parts.rest * seed_factor * unit_factor
    )


def _scenario(found: Components, num_seeds: int, num_units: int, quantile: float) -> Components:
    """The components if each mean square is at this chi-squared quantile (0.1: the truth is larger)."""
    freedoms = (num_seeds - 1, num_units - 1, (num_seeds - 1) * (num_units - 1))
    squares = (found.seed + found.rest, found.unit + found.rest, found.rest)
    seed, unit, rest = (float(s * f / special.chdtri(f, 1 - quantile)) for s, f in zip(squares, freedoms, strict=True))
    return Components(seed=max(seed - rest, 0.0), unit=max(unit - rest, 0.0), rest=rest)


def _seeds_needed(parts: Components, num_seeds: int, num_units: int, margin: float, level: float) -> int | None:
    def suffices(seeds: int) -> bool:
        return bool(power(_at(parts, num_seeds / seeds, 1.0), seeds, num_units, margin, level) >= POWER)

    return smallest(suffices, MIN_SEEDS, MOST_SEEDS)


def _units_needed(parts: Components, num_seeds: int, num_units: int, margin: float, level: float) -> int | None:
    def suffices(units: int) -> bool:
        return bool(power(_at(parts, 1.0, num_units / units), num_seeds, units, margin, level) >= POWER)

    return smallest(suffices, MIN_UNITS, MOST_UNITS)


def smallest(suffices: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest sufficient number, by bisection (`suffices` is monotone); None: not even `high` is sufficient."""
    if not suffices(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle + 1, high)
    return low


# --- the chance that more seeds would decide


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
