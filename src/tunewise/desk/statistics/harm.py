"""Quality loss of one arm relative to another, by unit."""

from collections.abc import Sequence
from typing import NamedTuple

from tunewise.desk.metrics.metric import Metric
from tunewise.desk.metrics.metrics import compute
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.statistics.intervals import Estimate, unit_interval
from tunewise.desk.statistics.paired import PairedRuns
from tunewise.desk.statistics.spread import ROUNDING


class Harm(NamedTuple):
    """Quality loss of one arm relative to another, in units of the metric."""

    difference: Estimate  # of the metric, with its interval; over units alone if there is one seed
    least: float | None  # ends of the interval of the quality loss, positive if `worse` is worse; None: no interval
    most: float | None
    is_equal: bool  # to rounding, in every unit

    def within(self, margin: float) -> bool:
        """Whether the quality loss, including its interval, is below the margin."""
        return self.is_equal or (self.most is not None and self.most < margin)

    def beyond(self, margin: float) -> bool:
        """Whether the quality loss, including its interval, is above the margin."""
        return self.least is not None and self.least > margin


def harm(metric: Metric, worse: Sequence[Scores], than: Sequence[Scores], confidence: float = 0.95) -> Harm:
    """Quality loss of `worse` relative to `than`, run by run on the same rows."""
    contrast = PairedRuns(metric, {"worse": worse, "than": than}).contrast({"worse": 1, "than": -1})
    is_one_seed = len(worse) == 1
    interval = unit_interval(contrast.values_SN, confidence) if is_one_seed else contrast.interval(confidence)
    is_equal = bool(abs(contrast.values_SN).max() < ROUNDING)
    difference = Estimate(estimate=contrast.estimate, low=interval.low, high=interval.high)
    ends = (interval.high, interval.low) if metric.higher_is_better else (interval.low, interval.high)
    least, most = (None if end is None else -end if metric.higher_is_better else end for end in ends)
    return Harm(difference, least, most, is_equal)


def mean_of(metric: str, runs: Sequence[Scores]) -> float:
    """The metric, mean over runs."""
    return sum(compute(metric, run) for run in runs) / len(runs)
