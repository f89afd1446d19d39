"""Paired differences of arms per seed and test unit: from scores to the tables from which intervals are computed.

Shapes: S seeds; U units; N columns of a table (the U units, plus the pseudo-units of a proportion).
"""

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast

import numpy as np

from tunewise.desk.arrays import Floats, Integers, Texts
from tunewise.desk.metrics.metric import Sums
from tunewise.desk.metrics.metrics import Metric, compute, measured_metric
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.statistics.intervals import (
    Interval,
    probability_of_negative,
    two_way_interval,
    unit_interval,
)
from tunewise.desk.statistics.power import chance_of_negative
from tunewise.desk.statistics.spread import ROUNDING
from tunewise.errors import StudyError
from tunewise.spec import Frozen

CELLS = 2**20  # sums held at a time: 8 MiB
MANY_SUMS = 64  # of a metric; with no more than these, the sums of all units are computed at once

# --- from scores to x[seed, unit]


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of arms per seed and unit: the table from which intervals are computed."""

    estimate: float  # of the metric itself, as a reader would recompute it
    values_SN: Floats  # the first U columns are `units`, the others pseudo-units
    units: Texts  # U
    most_freedom: float = math.inf  # an upper limit of the degrees of freedom

    def interval(self, confidence: float = 0.95, guarded: bool = True) -> Interval:
        """The two-way interval with the metric's own estimate. Pseudo-units do not count as units."""
        found = two_way_interval(self.values_SN, confidence, self.most_freedom, guarded)
        return replace(found, estimate=self.estimate, num_units=len(self.units))

    def probability_of_negative(self) -> float:
        """The one-sided p-value of "the mean is below 0"."""
        return probability_of_negative(self.values_SN, self.most_freedom)

    def probability_of_positive(self) -> float:
        """The one-sided p-value of "the mean is above 0"."""
        return probability_of_negative(-self.values_SN, self.most_freedom)

    def chance_of_negative(self, num_seeds: int, level: float) -> float:
        """The predictive chance that the upper end is below 0 after `num_seeds` seeds."""
        return chance_of_negative(self.values_SN, num_seeds, level)

    def chance_of_positive(self, num_seeds: int, level: float) -> float:
        """The predictive chance that the lower end is above 0 after `num_seeds` seeds."""
        return chance_of_negative(-self.values_SN, num_seeds, level)

    def over_units(self, confidence: float) -> Interval:
        """The interval of these very runs, for new units."""
        return unit_interval(self.values_SN, confidence)

    def unit_means(self) -> Floats:
        """The mean over seeds of every real unit, shape (U,)."""
        means: Floats = self.values_SN[:, : len(self.units)].mean(axis=0)
        return means


class Contrasts(Protocol):
    """Where the contrasts of an arm and full come from: runs with the same seeds, or any others (desk/judge/)."""

    @property
    def effective_units(self) -> float:
        """The number of equal units that weigh as much."""
        ...

    def contrast(self, weights: Mapping[str, float]) -> Contrast:
        """A comparison of arms by weights that sum to 0."""
        ...


class PairedRuns:
    """The runs of several arms on the same rows, collapsed to units once, for any contrast.

    `runs` maps each arm to its scores by seed, with the same seeds in the same order in every arm. An arm with a single
    record among arms with several is deterministic (the base), and its record counts for every seed.
    `most_freedom` limits the degrees of freedom of all intervals. Raises StudyError if the runs were not scored on the
    same rows.
    """

    def __init__(self, metric: Metric, runs: Mapping[str, Sequence[Scores]], most_freedom: float = math.inf) -> None:
        assert metric.form != "exponential", "perplexities are compared through nll"
        require_same_rows(runs)
        first = next(iter(runs.values()))[0]
        self.num_seeds = max(len(of_arm) for of_arm in runs.values())
        assert all(len(of_arm) in (1, self.num_seeds) for of_arm in runs.values()), "arms share their seeds"
        self.units, unit_of_row = _units_and_rows(first.units)
        self._form, self._most_freedom = metric.form, most_freedom
        self.values: dict[str, float] = {}  # the metric itself, mean over seeds
        self.tables: dict[str, Floats] = {}  # (seeds of the arm, U): numerators, or pseudo-values
        for arm, of_arm in runs.items():
            of_runs = [_of_run(metric, scores, unit_of_row) for scores in of_arm]
            self.values[arm] = float(metric.value(np.stack([total_K for total_K, _ in of_runs])).mean())
            self.tables[arm] = np.stack([table_U for _, table_U in of_runs])
        self.denominators_U = np.ones(len(self.units))
        if metric.form != "nonlinear":
            self.denominators_U = np.concatenate([part[:, 1] for part in _by_unit(metric.sums(first), unit_of_row)])

    @property
    def effective_units(self) -> float:
        """The number of equal units that weigh as much: (sum of sizes)^2 / sum of squares (Kish 1965, section 8.2)."""
        sizes_U = self.denominators_U
        return float(sizes_U.sum() ** 2 / (sizes_U**2).sum())

    def contrast(self, weights: Mapping[str, float]) -> Contrast:
        """A comparison of arms by weights that sum to 0, such as {arm: 1, full: -1}.

        For a proportion, two pseudo-units are added, +1 and -1 in every seed. Without them, a comparison with few or no
        disagreeing rows would look certain. This follows Agresti & Min 2005 (Statistics in Medicine 24), who add half a
        row to each cell of the table of pairs; here two whole units are added.
        """
        assert abs(sum(weights.values())) < ROUNDING, "a comparison's weights sum to 0"
        return self._combine(weights, (1.0, -1.0))

    def mean(self, arm: str) -> Contrast:
        """The contrast of a single arm. For a proportion, four pseudo-units are added: two right, two wrong per seed.

        Source of the four: Agresti & Coull 1998 (The American Statistician 52).
        """
        return self._combine({arm: 1.0}, (1.0, 1.0, 0.0, 0.0))

    def _combine(self, weights: Mapping[str, float], pseudo_units: tuple[float, ...]) -> Contrast:
        estimate = sum(weight * self.values[arm] for arm, weight in weights.items())
        table_SU: Floats = np.zeros((self.num_seeds, len(self.units)))
        for arm, weight in weights.items():
            table_SU = table_SU + weight * self.tables[arm]
        if self._form == "nonlinear":
            return Contrast(estimate, table_SU, self.units, self._most_freedom)
        denominators_U = self.denominators_U
        if self._form == "proportion":
            table_SU, denominators_U = with_pseudo_units(table_SU, denominators_U, pseudo_units)
        return Contrast(estimate, linearise(table_SU, denominators_U), self.units, self._most_freedom)


def linearise(numerators_SN: Floats, denominators_N: Floats) -> Floats:
    """Linearized ratios x[s, i] of numerators d and denominators t; the mean of a seed's row is that seed's ratio.

    x[s, i] = R + (d[s, i] - R t[i]) / mean t, with R = mean d / mean t over all seeds. The variance of x is that of the
    ratio by the delta method (Cochran 1977, Sampling Techniques, section 6.3). Shapes: (..., S, N) and (..., N).
    """
    sizes = denominators_N[..., None, :]
    ratio = numerators_SN.mean(axis=(-2, -1), keepdims=True) / sizes.mean(axis=-1, keepdims=True)
    values_SN: Floats = ratio + (numerators_SN - ratio * sizes) / sizes.mean(axis=-1, keepdims=True)
    return values_SN


def with_pseudo_units(
    numerators_SN: Floats, denominators_N: Floats, values: tuple[float, ...]
) -> tuple[Floats, Floats]:
    """The table with units added that have these values in every seed, each as large as the mean unit."""
    size = denominators_N.mean()
    added = np.tile(np.array(values) * size, (len(numerators_SN), 1))
    return np.concatenate([numerators_SN, added], axis=1), np.append(denominators_N, [size] * len(values))


def _of_run(metric: Metric, scores: Scores, unit_of_row: Integers) -> tuple[Floats, Floats]:
    """The K sums of one run over all units, and its row of the table, shape (U,): numerators or pseudo-values.

    The pseudo-value of unit i is U T - (U - 1) T_(-i), with T the metric and T_(-i) the metric without unit i: the
    jackknife (Efron & Tibshirani 1993, section 11.5).
    """
    sums_NK = metric.sums(scores)
    if metric.form != "nonlinear":
        parts = list(_by_unit(sums_NK, unit_of_row))
        return _sum_of(parts), np.concatenate([part[:, 0] for part in parts])
    total_K, num_units = _sum_of(_by_unit(sums_NK, unit_of_row)), int(unit_of_row.max()) + 1
    if num_units < 2:
        return total_K, metric.value(total_K[None])
    without = [metric.value(total_K - part) for part in _by_unit(sums_NK, unit_of_row)]
    pseudo_U: Floats = num_units * metric.value(total_K[None]) - (num_units - 1) * np.concatenate(without)
    return total_K, pseudo_U


def _sum_of(parts: Iterable[Floats]) -> Floats:
    """The column sums of several tables, each of shape (some units, K)."""
    return cast("Floats", sum(part.sum(axis=0) for part in parts))


_SORTED: dict[int, tuple[weakref.ref[Texts], Texts, Integers]] = {}  # by the id of the array


def _units_and_rows(units_N: Texts) -> tuple[Texts, Integers]:
    """The sorted units, and the index of each row's unit. Computed once for an array that many runs share."""
    found = _SORTED.get(id(units_N))
    if found is None or found[0]() is not units_N:
        key = id(units_N)
        names, unit_of_row = np.unique(units_N, return_inverse=True)
        found = (weakref.ref(units_N, lambda _: _SORTED.pop(key, None)), names, unit_of_row)
        _SORTED[key] = found
    return found[1], found[2]


def _by_unit(sums_NK: Sums, unit_of_row: Integers) -> Iterator[Floats]:
    """Sums by unit, in tables of shape (some units, K): with 1,000 classes, one table would take gigabytes."""
    num_units, num_sums = int(unit_of_row.max()) + 1, sums_NK.shape[1]
    rows, columns = np.nonzero(sums_NK)
    values, units = sums_NK[rows, columns], unit_of_row[rows]
    at_once = max(CELLS // num_sums, 1) if num_sums > MANY_SUMS else num_units
    for begin in range(0, num_units, at_once):
        size = min(at_once, num_units - begin)
        is_here = (units >= begin) & (units < begin + size)
        cells = (units[is_here] - begin) * num_sums + columns[is_here]
        sums = np.bincount(cells, weights=values[is_here], minlength=size * num_sums).astype(np.float64, copy=False)
        yield sums.reshape(size, num_sums)


def require_same_rows(runs: Mapping[str, Sequence[Scores]]) -> None:
    """Raise StudyError if not all runs were scored on the same rows."""
    flat = [(arm, scores) for arm, of_arm in runs.items() for scores in of_arm]
    first_arm, first = flat[0]
    for arm, scores in flat[1:]:
        for column in ("examples", "units", "num_tokens", "num_bytes", "labels"):
            ours, theirs = getattr(first, column), getattr(scores, column)
            if ours is not theirs and not np.array_equal(ours, theirs):
                raise StudyError(
                    f"runs of '{first_arm}' and '{arm}' were not scored on the same rows: their {column} differ. "
                    "Delete the study's runs folder and run it again."
                )


# --- one arm's own metric


class MetricSummary(Frozen):
    """One metric of one arm: its mean over seeds, a 95% interval for new seeds and units, and its values by seed.

    None: not available (an interval from one seed, or a perplexity too large to write).
    """

    mean: float | None
    low: float | None
    high: float | None
    per_seed: tuple[float | None, ...]


def mean_interval(
    name: str, runs: Sequence[Scores], seeds: Literal["drawn", "fixed"] = "drawn", confidence: float = 0.95
) -> MetricSummary:
    """One arm's metric with its two-way interval; ends are clipped to the metric's range.

    `seeds="fixed"` is for a model that was not trained from a seed (the base, an adapter from elsewhere); its interval
    is over units only. Perplexity and its ends are exp of the mean NLL and of its ends.

    Raises SpecError for an unknown metric, StudyError if rows differ.
    """
    metric = measured_metric(name, runs[0])
    if metric.form == "exponential":
        inner = mean_interval("nll", runs, seeds, confidence)
        mean, low, high, *per_seed = (finite_exp(x) for x in (inner.mean, inner.low, inner.high, *inner.per_seed))
        return MetricSummary(mean=mean, low=low, high=high, per_seed=tuple(per_seed))
    contrast = PairedRuns(metric, {"arm": runs}).mean("arm")
    interval = (two_way_interval if seeds == "drawn" else unit_interval)(contrast.values_SN, confidence)
    return MetricSummary(
        mean=contrast.estimate,
        low=None if interval.low is None else max(interval.low, metric.lowest),
        high=None if interval.high is None else min(interval.high, metric.highest),
        per_seed=tuple(compute(name, scores) for scores in runs),
    )


def finite_exp(value: float | None) -> float | None:
    """exp(value); None if `value` is None or the result overflows float64."""
    if value is None or value > math.log(np.finfo(np.float64).max):
        return None
    return math.exp(value)
