"""The learning-rate search: one rule for every arm, a pure function of the losses so far.

It starts with rates `tuning.spacing` apart around a center. While the best one is at an edge, it adds one beyond. If
the parabola through the best rate and its neighbors can be trusted (`earns_trust`), the search ends there, and its
lowest point is the rate to confirm. Otherwise one trial tests the lowest point. If that trial is not as the parabola
says, the two half-steps (the square root of the spacing, 1.7 for 3) around the best follow, up to `tuning.cap`
full-length trials. With `tuning.search: short`, every rate of the grid first runs a short but complete schedule. The
full-length trials then start with the best of these and its two neighbors, and no half-step follows.

Losses are what selection minimizes; None means that training diverged at this rate. Without a `tolerance` the
half-steps always follow, and the best rate tried is confirmed (`protocol: fixed`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from tunewise.spec import TuningSpec

Losses = Mapping[float, float | None]  # rate -> loss; None: diverged
Result = TypeVar("Result")  # of a trial

# A wall rises on one side only, and a parabola through it is wrong (scripts/calibrate_search.py has the cells).
MOST_UNEQUAL_RISES = 10.0
# Half-steps nearer than this factor to a rate already tried would not measure anything new.
LEAST_FACTOR = 1.15


class Tolerance(NamedTuple):
    """The loss up to which two rates count as equal: the smaller of a constant and of a share of the gain."""

    absolute: float = math.inf
    share_of_gain: float = math.inf
    reference: float = math.inf  # loss that a gain is counted from

    def at(self, loss: float) -> float:
        """The tolerance around the best loss found, in the same units."""
        if math.isinf(self.share_of_gain):
            return self.absolute
        return min(self.absolute, self.share_of_gain * max(0.0, self.reference - loss))


class Search(NamedTuple):
    """State of the search of an arm."""

    tried: list[float]  # full-length trials that the rule asked for and that were made
    waiting: list[float]  # those to make next
    tried_short: list[float]  # the same of the short trials
    waiting_short: list[float]

    @property
    def is_over(self) -> bool:
        """Whether no trial is left to run."""
        return not self.waiting and not self.waiting_short


def search(
    tuning: TuningSpec,
    middle: float,
    results: Mapping[float, Result],
    short_results: Mapping[float, Result],
    losses_of: Callable[[Mapping[float, Result]], Losses],
    tolerance: Tolerance | None = None,
) -> Search:
    """Apply the rule from the start, as far as results exist.

    So trials left over from another center or cap have no effect, and a lost trial is repeated. `losses_of` is called
    with the trials made before a decision, because ties depend on the best of them.
    """
    places: Sequence[int] = first_places(tuning)
    tried_short: list[float] = []
    if tuning.search == "short":
        grid = {grid_rate(tuning, middle, place): place for place in places}
        tried_short = [rate for rate in grid if rate in short_results]
        if missing := [rate for rate in grid if rate not in short_results]:
            return Search([], [], tried_short, missing)
        best = best_rate(losses_of({rate: short_results[rate] for rate in grid}))
        centre = (
            places[0] if best is None else grid[best]
        )  # everything diverged: the lowest rate is the most likely to train
        places = range(centre - 1, centre + 2)
    tried: list[float] = []
    while wanted := next_rates(tuning, middle, places, losses_of({rate: results[rate] for rate in tried}), tolerance):
        tried += [rate for rate in wanted if rate in results]
        if missing := [rate for rate in wanted if rate not in results]:
            return Search(tried, missing, tried_short, [])
    return Search(tried, [], tried_short, [])


def first_places(tuning: TuningSpec) -> range:
    """The grid places that the search starts with; 0 is the center."""
    half = (tuning.rates - 1) // 2
    return range(-half, tuning.rates - half)


def grid_rate(tuning: TuningSpec, middle: float, place: float) -> float:
    """The rate `place` places above the center, rounded to 3 digits so that it prints exactly."""
    return float(f"{middle * tuning.spacing**place:.3g}")


def next_rates(
    tuning: TuningSpec, middle: float, places: Sequence[int], losses: Losses, tolerance: Tolerance | None
) -> list[float]:
    """Full-length trials to run after those in `losses`, which started at `places`; empty when the search is over.

    A diverged rate is worse than any other, so it closes its edge. Only if no trial finished does the search continue
    downward: too high a rate is the only cause that a search can fix.
    """
    begin = [grid_rate(tuning, middle, place) for place in places]
    if missing := [rate for rate in begin if rate not in losses]:
        return missing
    if len(losses) >= tuning.cap or len(places) == 1:
        return []
    low, high = places[0], places[-1]
    while grid_rate(tuning, middle, low - 1) in losses:
        low -= 1
    while grid_rate(tuning, middle, high + 1) in losses:
        high += 1
    grid = {rate: place for place in range(low, high + 1) if (rate := grid_rate(tuning, middle, place)) in losses}
    best = best_rate({rate: losses[rate] for rate in grid})
    if best is None or grid[best] == low:
        return [grid_rate(tuning, middle, low - 1)]
    if grid[best] == high:
        return [grid_rate(tuning, middle, high + 1)]
    lowest = lowest_point({rate: losses[rate] for rate in grid})
    if tolerance is not None and lowest is not None:
        equal = tolerance.at(lowest.best_loss)
        if lowest.earns_trust(equal):
            return []
        if lowest.rate not in losses:
            return [lowest.rate]
        if lowest.is_confirmed_by(losses[lowest.rate], equal):
            return []
    if tuning.search == "short" or not tuning.half_steps:
        return []
    return _half_steps(tuning, middle, grid[best], losses)


def _half_steps(tuning: TuningSpec, middle: float, place: int, losses: Losses) -> list[float]:
    """The rates half a place from the best one; if the cap allows only one, that on the better side."""

    def side_loss(side: int) -> float:
        loss = losses[grid_rate(tuning, middle, place + side)]
        return math.inf if loss is None else loss

    def is_new(rate: float) -> bool:
        return all(abs(math.log(rate / tried)) > math.log(LEAST_FACTOR) for tried in losses)

    sides = sorted((-1, 1), key=side_loss)
    rates = [grid_rate(tuning, middle, place + side / 2) for side in sides]
    return [rate for rate in rates if is_new(rate)][: tuning.cap - len(losses)]


def best_rate(losses: Losses) -> float | None:
    """The rate with the lowest loss, the lowest rate among equals; None if no trial finished."""
    finished = {rate: loss for rate, loss in losses.items() if loss is not None}
    return min(finished, key=lambda rate: (finished[rate], rate)) if finished else None


def brackets_best(losses: Losses) -> bool:
    """Whether worse (or diverged) rates were tried on both sides of the best one."""
    best = best_rate(losses)
    return best is not None and min(losses) < best < max(losses)


def bracket(losses: Losses) -> tuple[float, float] | None:
    """The rates next to the best one, both tried and worse (or diverged); None if the best is an edge."""
    best = best_rate(losses)
    if best is None or not brackets_best(losses):
        return None
    rates = sorted(losses)
    return rates[rates.index(best) - 1], rates[rates.index(best) + 1]


class LowestPoint(NamedTuple):
    """Minimum of the parabola in log rate through the best rate and its two neighbors."""

    rate: float  # between the neighbors, rounded to 3 digits as every rate
    gain: float  # how far it is below the best loss, in units of the loss, never negative
    best_loss: float
    rises: tuple[float, float]  # of the neighbors above the best loss, the smaller one first

    def earns_trust(self, tolerance: float) -> bool:
        """Whether the point is trained without a trial of its own: little to gain, and no wall on one side."""
        small, large = self.rises
        return self.gain <= tolerance and large < MOST_UNEQUAL_RISES * max(small, tolerance)

    def is_confirmed_by(self, loss: float | None, tolerance: float) -> bool:
        """Whether a trial at the point found the loss that the parabola predicts."""
        return loss is not None and abs(loss - (self.best_loss - self.gain)) <= tolerance


def lowest_point(losses: Losses) -> LowestPoint | None:
    """The lowest point that the curve predicts; None without a parabola: best at an edge, or a neighbor diverged."""
    best, beside = best_rate(losses), bracket(losses)
    if best is None or beside is None:
        return None
    below, above = beside
    at_best, at_below, at_above = losses[best], losses[below], losses[above]
    if at_best is None or at_below is None or at_above is None:
        return None
    # y = curvature x^2 + slope x through (0, 0), (-left, rise_left), (right, rise_right): its minimum is slope^2 /
    # (4 curvature) below 0 and between the neighbors, because both rises are at least 0
    left, right = math.log(best / below), math.log(above / best)
    rises = sorted((at_below - at_best, at_above - at_best))
    per_left, per_right = (at_below - at_best) / left, (at_above - at_best) / right
    curvature = (per_left + per_right) / (left + right)
    slope = (per_right * left - per_left * right) / (left + right)
    if curvature <= 0:  # all three are equal
        return LowestPoint(best, 0.0, at_best, (0.0, 0.0))
    rate = float(f"{best * math.exp(-slope / (2 * curvature)):.3g}")
    return LowestPoint(rate, slope**2 / (4 * curvature), at_best, (rises[0], rises[1]))


def headroom(losses: Losses) -> float | None:
    """What the lowest point may gain over the best rate tried, in units of the loss; None without a parabola.

    At most the best loss itself, because NLL and error rate are never below 0.
    """
    lowest = lowest_point(losses)
    return None if lowest is None else min(lowest.gain, max(lowest.best_loss, 0.0))


def chosen_rate(losses: Losses, tolerance: Tolerance | None = None) -> float | None:
    """The rate to confirm: the lowest point of a curve that earns trust, else the best one tried.

    None if no trial finished. Without a `tolerance` it is always the best one tried.
    """
    lowest = None if tolerance is None else lowest_point(losses)
    if lowest is not None and tolerance is not None and lowest.earns_trust(tolerance.at(lowest.best_loss)):
        return lowest.rate
    return best_rate(losses)
