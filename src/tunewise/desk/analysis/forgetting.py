"""Learning vs. forgetting: what an arm loses on general text by the time it is as good as the others.

At its own checkpoint, an arm that learned more has usually also forgotten more. At equal quality, each run is read
where its validation loss first reaches a level that every run reaches. A level that only some runs reach would compare
the better runs of one arm with all runs of another.

Shapes: S seeds, U documents of the general text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tunewise.desk.analysis.curves import first_crossing
from tunewise.desk.arrays import Floats
from tunewise.desk.statistics.intervals import Estimate, two_way_interval
from tunewise.desk.statistics.paired import linearise
from tunewise.spec import Frozen
from tunewise.storage.files import read_table


@dataclass(frozen=True)
class Point:
    """One measurement of one run; documents in the order of their names."""

    step: int
    valid_nll: float  # nats per supervised token
    nll_U: Floats  # nats, summed over each document's tokens
    tokens_U: Floats


class CurvePoint(Frozen):
    """One step of an arm: means over its seeds."""

    step: int
    valid_nll: float
    change: float  # of the NLL on general text against the untrained model, nats per token


class AtEqualQuality(Frozen):
    """Forgetting where each run first reaches the level. Intervals are for new seeds and new documents."""

    level: float  # validation loss, nats per supervised token; every run reaches it
    change: float  # nats per token of general text
    low: float | None
    high: float | None
    steps: float  # mean over runs, interpolated
    against_full: Estimate | None  # change minus that of full, paired by seed and document; None: no such pairs


def read_curve(path: Path) -> list[Point]:
    """The measurements of one run by rising step (records.FORGETTING_SCHEMA); empty without such a file."""
    if not path.is_file():
        return []
    rows: dict[int, dict[str, tuple[float, float]]] = {}
    valid: dict[int, float] = {}
    for row in read_table(path).to_pylist():
        rows.setdefault(row["step"], {})[row["unit"]] = (row["nll"], row["num_tokens"])
        valid[row["step"]] = row["valid_nll"]
    points = []
    for step in sorted(rows):
        pairs_U2 = np.array([rows[step][unit] for unit in sorted(rows[step])], dtype=np.float64)
        points.append(Point(step, valid[step], pairs_U2[:, 0], pairs_U2[:, 1]))
    return [point for point in points if np.isfinite(point.valid_nll) and np.isfinite(point.nll_U).all()]


def mean_curve(runs: Sequence[Sequence[Point]]) -> tuple[CurvePoint, ...]:
    """Means over the runs of an arm at the steps that all of them have."""
    if not runs or not all(runs):
        return ()
    by_step = [{point.step: point for point in run} for run in runs]
    shared = sorted(set.intersection(*(set(points) for points in by_step)))
    return tuple(
        CurvePoint(
            step=step,
            valid_nll=float(np.mean([points[step].valid_nll for points in by_step])),
            change=float(
                np.mean(
                    [_per_token(points[step]) - _per_token(run[0]) for points, run in zip(by_step, runs, strict=True)]
                )
            ),
        )
        for step in shared
    )


def equal_quality(arms: Mapping[str, Sequence[Sequence[Point]]], full: str | None) -> dict[str, AtEqualQuality]:
    """Forgetting of every arm at the validation loss that every run reaches. The runs of all arms share their seeds."""
    measured = {arm: runs for arm, runs in arms.items() if runs and all(runs)}
    if not measured:
        return {}
    level = max(min(point.valid_nll for point in run) for runs in measured.values() for run in runs)
    changes = {arm: _changes_at(runs, level) for arm, runs in measured.items()}
    of_full = changes.get(full) if full else None
    return {arm: _at_level(found, of_full if arm != full else None, level) for arm, found in changes.items()}


class _Changes(NamedTuple):
    steps: list[float]
    changes_SU: Floats
    tokens_U: Floats


def _changes_at(runs: Sequence[Sequence[Point]], level: float) -> _Changes:
    found = [crossing for run in runs if (crossing := at_first_crossing(run, level))]
    assert len(found) == len(runs), "every run reaches the level"
    return _Changes([step for step, _ in found], np.stack([change_U for _, change_U in found]), runs[0][0].tokens_U)


def _at_level(arm: _Changes, full: _Changes | None, level: float) -> AtEqualQuality:
    interval, paired = two_way_interval(linearise(arm.changes_SU, arm.tokens_U)), None
    if full is not None and full.changes_SU.shape == arm.changes_SU.shape:
        paired = two_way_interval(linearise(arm.changes_SU - full.changes_SU, arm.tokens_U)).as_estimate()
    return AtEqualQuality(
        level=level,
        change=interval.estimate,
        low=interval.low,
        high=interval.high,
        steps=float(np.mean(arm.steps)),
        against_full=paired,
    )


def at_first_crossing(run: Sequence[Point], level: float) -> tuple[float, Floats] | None:
    """Step and change of every document's NLL (U) where the run's validation loss first falls to `level`.

    Linear between measurements; None if it never does.
    """
    found = first_crossing([point.valid_nll for point in run], level)
    if found is None:
        return None
    before, after = run[found.before], run[min(found.before + 1, len(run) - 1)]
    nll_U = before.nll_U + found.share * (after.nll_U - before.nll_U)
    return before.step + found.share * (after.step - before.step), nll_U - run[0].nll_U


def _per_token(point: Point) -> float:
    return float(point.nll_U.sum() / point.tokens_U.sum())
