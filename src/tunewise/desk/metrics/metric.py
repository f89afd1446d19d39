"""The definition of a metric: how examples become sums, and how sums become a value.

A metric turns each example into K numbers; its value is a function of their column sums alone. So a value never
depends on batches or on the order of rows, the same formula gives one run, one unit or all units but one, and
anyone can check it from scores.parquet. No metric is a mean of means.

Shapes: N examples, K sums of a metric.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tunewise.desk.arrays import Floats, Integers
from tunewise.desk.metrics.scores import Scores
from tunewise.errors import StudyError

Sums = Floats | npt.NDArray[np.bool_]  # truth values count as 0 and 1

# How a metric is made of its sums, which decides how its interval is made (desk/statistics/paired.py).
Form = Literal[
    "ratio",  # first sum / second sum, where the second is of the data and the same in every run
    "proportion",  # the same, of counts: a share in [0, 1]
    "exponential",  # exp of the ratio that NLL is: compared through NLL
    "nonlinear",  # any other function of sums
]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: how examples become sums, how sums become a value, and how a value is shown."""

    name: str
    label: str
    higher_is_better: bool
    form: Form
    sums: Callable[[Scores], Sums]  # (N, K)
    value: Callable[[Floats], Floats]  # column sums (..., K) -> (...)
    unit: str = ""
    difference_unit: str = ""
    scale: float = 1  # a value times this is what a reader sees, in `unit`
    decimals: int = 4  # of what a reader sees
    lowest: float = 0.0  # the ends of an interval are clipped here
    highest: float = math.inf


def ratio(sums: Floats) -> Floats:
    """First sum / second sum."""
    return np.asarray(sums[..., 0] / sums[..., 1], dtype=np.float64)


def share(name: str, label: str, sums: Callable[[Scores], Sums]) -> Metric:
    """A metric that is a share of rows, shown in percent."""
    return Metric(
        name=name,
        label=label,
        higher_is_better=True,
        unit="%",
        difference_unit="percentage points",
        scale=100,
        decimals=2,
        highest=1,
        form="proportion",
        sums=sums,
        value=ratio,
    )


def pair(numerators: Floats, denominators: Integers, what: str) -> Floats:
    """(N, 2): what is divided, and by what. Raises StudyError if there is nothing to divide by."""
    if denominators.sum() <= 0:
        raise StudyError(
            f"a metric per {what} needs at least one, but the scores count {denominators.sum()}. Check the data."
        )
    return np.stack([numerators.astype(np.float64), denominators.astype(np.float64)], axis=1)


def per_row(numerators: Floats) -> Floats:
    """(N, 2): what is averaged over rows, and 1 for each."""
    return pair(numerators, np.ones(len(numerators), dtype=np.int64), "rows")
