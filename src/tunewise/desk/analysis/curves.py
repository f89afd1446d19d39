"""Validation loss during training: the level that every arm reaches, and the step at which a run reaches it."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tunewise.spec import Frozen


class LossPoint(NamedTuple):
    """A loss after `step` optimizer steps."""

    step: float
    loss: float


class TimedCurve(NamedTuple):
    """Validation loss of one run in order of steps; empty if nothing was measured."""

    points: Sequence[LossPoint]
    step_seconds: float | None  # its usual step; None: not known


class Crossing(NamedTuple):
    """Position where a curve first falls to a level, as a share of the way from one point to the next."""

    before: int  # index of the one
    share: float  # in [0, 1]


class ToQuality(Frozen):
    """Time that the runs of an arm take to the level that most runs of every arm reach.

    Medians over all runs, in which a run that never reaches the level comes last.
    """

    level: float  # validation loss, nats per supervised token (classify: per example)
    steps: float  # median, interpolated between measurements
    seconds: float | None  # median, of optimizer steps only; None: their length is not known
    reached: int  # runs that reach the level
    runs: int


def first_crossing(losses: Sequence[float], level: float) -> Crossing | None:
    """Position where the losses first fall to `level`, linear between neighbors; None if they never do."""
    for index, loss in enumerate(losses):
        if loss > level:
            continue
        if index == 0:
            return Crossing(0, 0.0)
        return Crossing(index - 1, (losses[index - 1] - level) / (losses[index - 1] - loss))
    return None


def step_at(curve: Sequence[LossPoint], level: float) -> float | None:
    """Step at which a curve, in order of steps, first falls to `level`; None if it never does."""
    found = first_crossing([point.loss for point in curve], level)
    if found is None:
        return None
    before, after = curve[found.before], curve[min(found.before + 1, len(curve) - 1)]
    return before.step + found.share * (after.step - before.step)


def common_level(losses: Mapping[str, Iterable[Sequence[float]]]) -> float:
    """The loss that most runs of every arm reach: the maximum over arms of the (upper) median best loss of its runs."""
    return max(statistics.median_high(map(min, runs)) for runs in losses.values())


def mean_losses(runs: Sequence[Sequence[LossPoint]]) -> tuple[LossPoint, ...]:
    """Means over the runs of an arm, at the steps that all of them have."""
    by_step = [dict(run) for run in runs]
    shared = sorted(set.intersection(*(set(points) for points in by_step))) if by_step else []
    return tuple(LossPoint(step, float(np.mean([points[step] for points in by_step]))) for step in shared)


def share_of_training(curve: Sequence[LossPoint], within: float) -> float | None:
    """Share of its steps after which a curve is first within `within` of its own best; None: no such curve."""
    if len(curve) < 2 or curve[-1].step <= 0:
        return None
    step = step_at(curve, min(point.loss for point in curve) + within)
    assert step is not None, "a curve reaches its own best"
    return step / curve[-1].step


def to_quality(arms: Mapping[str, Sequence[TimedCurve]]) -> dict[str, ToQuality]:
    """Steps and seconds of every arm to the level that all of them reach; arms without any curve are left out."""
    measured = {arm: [run for run in runs if run.points] for arm, runs in arms.items()}
    measured = {arm: runs for arm, runs in measured.items() if runs}
    if not measured:
        return {}
    level = common_level({arm: [[p.loss for p in run.points] for run in runs] for arm, runs in measured.items()})
    found = {}
    for arm, runs in measured.items():
        steps = [math.inf if (step := step_at(run.points, level)) is None else step for run in runs]
        seconds = [step * run.step_seconds for step, run in zip(steps, runs, strict=True) if run.step_seconds]
        found[arm] = ToQuality(
            level=level,
            steps=statistics.median(steps),
            seconds=statistics.median(seconds) if len(seconds) == len(steps) else None,
            reached=sum(map(math.isfinite, steps)),
            runs=len(arms[arm]),
        )
    return found
