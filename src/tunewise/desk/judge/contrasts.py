"""Contrasts of an arm and full whose runs do not share their seeds, of fixed runs, and of the mean over tasks.

Shapes: S runs of the arm, F of full; U units; N columns of a table; T tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from tunewise.desk.arrays import Floats, Texts
from tunewise.desk.judge.means import MIN_TASKS, by_tasks, of_tasks
from tunewise.desk.metrics.metric import Metric
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.statistics.intervals import Components, Interval, unit_interval
from tunewise.desk.statistics.paired import Contrast, Contrasts, PairedRuns, linearise, with_pseudo_units
from tunewise.desk.statistics.power import predictive_chance
from tunewise.desk.statistics.spread import ROUNDING, MeanSquares, Spread, summed_spread

Seeds = Literal[
    "paired",  # the same seeds in both arms
    "apart",  # other ones, or not equally many
    "fixed",  # too few runs to speak of others: the verdict is on these very ones
]


@dataclass(frozen=True)
class SummedContrast(Contrast):
    """The sum of the means of tables whose seeds are independent; a table of one row is of fixed runs."""

    others: tuple[Floats, ...] = field(default=(), kw_only=True)  # besides `values_SN`, on the same columns

    def interval(self, confidence: float = 0.95, guarded: bool = True) -> Interval:
        """The interval of the sum (`summed_spread`). The ends are None if all values of every table are equal."""
        tables = (self.values_SN, *self.others)
        mean = sum(float(table.mean()) for table in tables)
        num_seeds, num_units = _common_number([len(table) for table in tables]), len(self.units)
        if not self._has_interval():
            return Interval(self.estimate, None, None, None, None, None, num_seeds, num_units)
        spread = summed_spread(tables).at_most(self.most_freedom)
        if not guarded:
            spread = replace(spread, stretch_below=np.ones(()), stretch_above=np.ones(()))
        below, above = spread.reach(confidence)
        return Interval(
            estimate=self.estimate,
            low=mean - float(below),
            high=mean + float(above),
            degrees_of_freedom=float(spread.freedom),
            standard_error=math.sqrt(spread.variance),
            components=_components(tables),
            num_seeds=num_seeds,
            num_units=num_units,
        )

    def probability_of_negative(self) -> float:
        """The one-sided p-value of "the sum is below 0"; 1 if there is no interval."""
        return self._probability(1.0)

    def probability_of_positive(self) -> float:
        """The one-sided p-value of "the sum is above 0"; 1 if there is no interval."""
        return self._probability(-1.0)

    def chance_of_negative(self, num_seeds: int, level: float) -> float:
        """The predictive chance that the upper end is below 0 after `num_seeds` seeds in every table."""
        return self._chance(1.0, num_seeds, level)

    def chance_of_positive(self, num_seeds: int, level: float) -> float:
        """The predictive chance that the lower end is above 0 after `num_seeds` seeds in every table."""
        return self._chance(-1.0, num_seeds, level)

    def over_units(self, confidence: float) -> Interval:
        """The interval of these very runs, for new units."""
        return unit_interval(self._unit_sums()[None], confidence)

    def unit_means(self) -> Floats:
        """The sum of the tables' means of every real unit, shape (U,)."""
        return self._unit_sums()[: len(self.units)]

    def _unit_sums(self) -> Floats:
        """The sum of the tables' means of every column, shape (N,)."""
        found: Floats = sum((of.mean(axis=0) for of in self.others), self.values_SN.mean(axis=0))
        return found

    def _probability(self, sign: float) -> float:
        if not self._has_interval():
            return 1.0
        tables = [sign * table for table in (self.values_SN, *self.others)]
        spread: Spread = summed_spread(tables).at_most(self.most_freedom)
        return float(spread.probability_of_negative(sum(table.mean() for table in tables)))

    def _chance(self, sign: float, num_seeds: int, level: float) -> float:
        """That of one table of paired seeds with the same variance components; degrees of freedom are its S - 1."""
        if not self._has_interval():
            return 0.0
        tables = (self.values_SN, *self.others)
        parts, shape = _components(tables), (_common_number([len(of) for of in tables]), tables[0].shape[1])
        seed, unit, rest = (part * shape[0] * shape[1] for part in (parts.seed, parts.unit, parts.rest))
        mean = sign * sum(float(of.mean()) for of in tables)
        squares = MeanSquares(np.array(seed + rest), np.array(unit + rest), np.array(rest))
        return float(predictive_chance(mean, squares, shape, num_seeds, level))

    def _has_interval(self) -> bool:
        tables = (self.values_SN, *self.others)
        return self.values_SN.shape[1] > 1 and any(np.ptp(of) > ROUNDING * np.abs(of).max() for of in tables)


def _common_number(counts: Sequence[int]) -> int:
    """The number of seeds in each of two arms that would give means as precise: the harmonic mean, rounded up."""
    return math.ceil(len(counts) / sum(1 / count for count in counts) - ROUNDING)


def _components(tables: Sequence[Floats]) -> Components:
    """The parts of the squared standard error."""
    num_units = tables[0].shape[1]
    means = np.stack([table.mean(axis=0) for table in tables]).sum(axis=0)
    unit, seed, rest = float(means.var(ddof=1)) / num_units, 0.0, 0.0
    for table in (table for table in tables if len(table) > 1):
        cells, of_seeds = table.size, table.mean(axis=1)
        residual = table - of_seeds[:, None] - table.mean(axis=0) + table.mean()
        own = float((residual**2).sum()) / ((len(table) - 1) * (num_units - 1)) / cells
        seed += max(float(of_seeds.var(ddof=1)) / len(table) - own, 0.0)
        rest += own
    return Components(seed=seed, unit=max(unit - rest, 0.0), rest=rest)


class TaskRuns:
    """The runs of an arm and of full on one task, seeds apart or fixed, for the contrasts of a verdict.

    `base`: the reference of gain, one run or a run for every seed of full; (): there is none, and full takes its place.
    `most_freedom` limits the degrees of freedom of all intervals.
    """

    def __init__(
        self,
        metric: Metric,
        arm: Sequence[Scores],
        full: Sequence[Scores],
        seeds: Seeds,
        base: Sequence[Scores] = (),
        most_freedom: float = math.inf,
    ) -> None:
        assert seeds != "paired", "paired seeds are compared by PairedRuns"
        self._metric, self._is_fixed, self._most_freedom = metric, seeds == "fixed", most_freedom
        of_full = {"full": full, "base": base} if base else {"full": full}
        self._of = {"arm": PairedRuns(metric, {"arm": arm}), "full": PairedRuns(metric, of_full)}

    @property
    def effective_units(self) -> float:
        """The number of equal units that weigh as much."""
        return self._of["arm"].effective_units

    def are_on_same_units(self) -> bool:
        """Whether arm and full were scored on the same units, each of the same size."""
        arm, full = self._of["arm"], self._of["full"]
        return np.array_equal(arm.units, full.units) and np.array_equal(arm.denominators_U, full.denominators_U)

    def contrast(self, weights: Mapping[str, float]) -> Contrast:
        """A comparison of arm, full and base by weights that sum to 0."""
        of_arm, of_full, own = self._of["arm"], self._of["full"], weights.get("arm", 0.0)
        full, base = weights.get("full", 0.0), weights.get("base", 0.0)
        others = {"full": full, "base": base} if "base" in of_full.tables else {"full": full + base}
        estimate = own * of_arm.values["arm"] + sum(weight * of_full.values[name] for name, weight in others.items())
        of_others: Floats = sum((weight * of_full.tables[name] for name, weight in others.items()), np.zeros(()))
        tables = [own * of_arm.tables["arm"], of_others]
        if self._is_fixed:
            tables = [sum(table.mean(axis=0, keepdims=True) for table in tables)]
        first, *rest = self._values(tables)
        return SummedContrast(estimate, first, of_arm.units, self._most_freedom, others=tuple(rest))

    def _values(self, tables: Sequence[Floats]) -> list[Floats]:
        """The tables as linearized ratios; of a proportion, pseudo-units are added to the first."""
        sizes, found = self._of["arm"].denominators_U, []
        for place, table in enumerate(tables):
            pseudo = (0.0, 0.0) if place else (1.0, -1.0)
            is_share = self._metric.form == "proportion"
            found.append(linearise(*with_pseudo_units(table, sizes, pseudo)) if is_share else linearise(table, sizes))
        return found


class MeanOfTasks:
    """The mean over tasks, for new tasks of the same kind from ten tasks on, else for these."""

    def __init__(self, tasks: Mapping[str, Contrasts]) -> None:
        self._tasks = tasks
        self.are_new = len(tasks) >= MIN_TASKS

    @property
    def effective_units(self) -> float:
        """The number of equal units that weigh as much; the tasks, if they are the units."""
        if self.are_new:
            return float(len(self._tasks))
        return len(self._tasks) ** 2 / sum(1 / of.effective_units for of in self._tasks.values())

    def contrast(self, weights: Mapping[str, float]) -> Contrast:
        """The comparison on the mean of all tasks."""
        found = [task.contrast(weights) for task in self._tasks.values()]
        combine = by_tasks if self.are_new else of_tasks
        values = combine([of.values_SN for of in found])
        estimate = float(np.mean([of.estimate for of in found]))
        if not isinstance(found[0], SummedContrast):
            return Contrast(estimate, values, self._units(found))
        others = zip(*(of.others for of in found if isinstance(of, SummedContrast)), strict=True)
        return SummedContrast(estimate, values, self._units(found), others=tuple(combine(of) for of in others))

    def _units(self, found: Sequence[Contrast]) -> Texts:
        """The names of the columns. Pseudo-units of tasks are between them, so their columns have names as well."""
        if self.are_new:
            return np.array(list(self._tasks), dtype=object)
        names = [
            np.concatenate([of.units, np.full(of.values_SN.shape[1] - len(of.units), "pseudo-unit", dtype=object)])
            for of in found
        ]
        return np.concatenate(names)
