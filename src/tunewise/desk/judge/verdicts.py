"""Verdicts on paired logs: every arm on every task, and on the mean of the tasks.

Each outcome on single tasks is at its Holm level among all arms and tasks; the means, which answer another question,
share their own level among the arms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError
from scipy import special

from tunewise.desk.judge.contrasts import MeanOfTasks, Seeds, TaskRuns
from tunewise.desk.judge.pairing import PairedTask
from tunewise.desk.metrics.metric import Metric, pair, ratio, share
from tunewise.desk.metrics.metrics import METRICS, define_metric_of_logs
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.statistics.comparison import ArmScores, Comparison
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.multiplicity import decide_together
from tunewise.desk.statistics.paired import Contrasts, PairedRuns
from tunewise.desk.statistics.power import MIN_SEEDS, MIN_UNITS, MOST_UNITS, POWER, smallest
from tunewise.desk.statistics.verdict import NOTHING_LEFT_OPEN, Verdict
from tunewise.errors import SpecError
from tunewise.inputs.logs.log import RunLog
from tunewise.spec import Margin
from tunewise.spec.quantities import DEFAULT_MARGINS, parse_margin

FULL = "full"


class Matched(NamedTuple):
    """The runs of an arm beside those of full."""

    seeds: Seeds
    order: tuple[int, ...]  # of the arm's runs; if paired, that of full's seeds


@dataclass(frozen=True)
class Judged:
    """One verdict with what it is about."""

    verdict: Verdict
    tasks: tuple[PairedTask, ...]
    seeds: Seeds
    are_new_tasks: bool
    items_needed: int | None  # of fixed runs, if inconclusive; None: not asked, or no number is enough


def matched(arm: Sequence[RunLog], full: Sequence[RunLog]) -> Matched:
    """How the seeds of two arms belong together. With fewer than 3 runs in one, they are fixed."""
    own, others = ([run.seed for run in of] for of in (arm, full))
    if min(len(own), len(others)) < MIN_SEEDS:
        return Matched("fixed", tuple(range(len(own))))
    if None not in own and sorted(map(str, own)) == sorted(map(str, others)) and len(set(own)) == len(own):
        return Matched("paired", tuple(own.index(seed) for seed in others))
    return Matched("apart", tuple(range(len(own))))


def metric_of(tasks: Sequence[PairedTask]) -> Metric:
    """The metric that these tasks share, made known by its name.

    A share if every score is 0 or 1; else a mean, or the ratio of two sums if items have weights.
    """
    first = tasks[0]
    name = first.metric if first.metric not in METRICS else f"{first.metric},none"
    label = first.metric.partition(",")
    shown = label[0] + (f" ({label[2]})" if label[2] else "")
    if all(task.is_share for task in tasks):
        found = replace(share(name, shown, _sums), higher_is_better=first.higher_is_better)
    else:
        bits = first.metric.partition(",")[0] == "bits_per_byte"
        unit = "" if first.per is None else f"{'bits' if bits else 'nats'} per {first.per}"
        found = Metric(
            name=name,
            label=f"log {shown}" if "perplexity" in shown else METRICS[shown].label if shown in METRICS else shown,
            higher_is_better=first.higher_is_better,
            form="ratio",
            sums=_sums,
            value=ratio,
            unit=unit,
            difference_unit=unit or f"points of {shown}",
            lowest=-np.inf,
        )
    define_metric_of_logs(found)
    return found


def _sums(scores: Scores) -> np.ndarray:
    return pair(scores.nll, scores.num_tokens, "items")


def margin_of(text: str | None, metric: Metric) -> Margin:
    """The declared margin, or that of a study. Raises SpecError if the metric has none."""
    if text is None:
        if metric.form == "proportion":
            return DEFAULT_MARGINS["accuracy"]
        if metric.name == "nll,none":
            return Margin(absolute=DEFAULT_MARGINS["nll"].absolute)
        raise SpecError(
            f"{metric.label} is not a share of right answers, so its margin has no default. Add the quality loss that "
            "you accept, for example --margin 0.02."
        )
    try:
        margin = parse_margin(text)
    except ValidationError as error:
        raise SpecError(f"--margin {text}: {error.errors()[0]['msg']}. Write '0.02' or '1pp'.") from error
    except ValueError as error:
        raise SpecError(str(error)) from error
    if text.strip().endswith("pp") and metric.form != "proportion":
        raise SpecError(
            f"--margin {text}: {metric.label} is not a share of right answers, so it has no percentage points. Write "
            "the margin in its own units, for example --margin 0.02."
        )
    if margin.absolute is None:
        raise SpecError(
            f"--margin {text}: logs hold no base, so a share of the gain is not known. Write '0.02' or '1pp'."
        )
    return margin


def judge_tasks(
    tasks: Sequence[PairedTask], runs: Mapping[str, Sequence[RunLog]], margin: str | None
) -> tuple[list[Judged], list[Judged]]:
    """Verdicts on the mean of the tasks (none if there is one task, or if their metrics differ), and on each task."""
    by_metric: dict[tuple[str, bool], list[PairedTask]] = {}
    for task in tasks:
        by_metric.setdefault((task.metric, task.higher_is_better), []).append(task)
    arms = [arm for arm in runs if arm != FULL]
    asked = []
    for of_metric in by_metric.values():
        metric = metric_of(of_metric)
        own = margin_of(margin, metric)
        asked += [_Asked(arm, runs, (task,), metric, own) for task in of_metric for arm in arms]
    of_means = []
    if len(by_metric) == 1 and len(tasks) > 1:
        of_means = [_Asked(arm, runs, tuple(tasks), metric, own) for arm in arms]
    return _decided(of_means), _decided(asked)


class _Asked:
    """One arm on one task, or on the mean of several."""

    def __init__(
        self,
        arm: str,
        runs: Mapping[str, Sequence[RunLog]],
        tasks: tuple[PairedTask, ...],
        metric: Metric,
        margin: Margin,
    ) -> None:
        self.arm, self.tasks, self.margin = arm, tasks, margin
        self.seeds, order = matched(runs[arm], runs[FULL])
        of_tasks = [([task.runs[arm][place] for place in order], task.runs[FULL]) for task in tasks]
        contrasts: list[Contrasts] = [
            PairedRuns(metric, {"arm": own, "full": full, "base": full})
            if self.seeds == "paired"
            else TaskRuns(metric, own, full, self.seeds)
            for own, full in of_tasks
        ]
        self.mean = MeanOfTasks({task.task: of for task, of in zip(tasks, contrasts, strict=True)})
        self.contrasts = contrasts[0] if len(tasks) == 1 else self.mean
        arm_runs, full_runs = (tuple(map(_joined, zip(*of, strict=True))) for of in zip(*of_tasks, strict=True))
        scores = ArmScores(arm_runs, full_runs, full_runs, FULL, self.contrasts, self.seeds != "fixed")
        self.comparison = Comparison(arm, scores, metric.name, margin, NOTHING_LEFT_OPEN)


def _joined(of_tasks: Sequence[Scores]) -> Scores:
    """The scores of one run on all tasks."""
    if len(of_tasks) == 1:
        return of_tasks[0]
    first = of_tasks[0]
    none = np.full(sum(len(of.nll) for of in of_tasks), -1, dtype=np.int64)
    return replace(
        first,
        examples=np.concatenate([of.examples for of in of_tasks]),
        units=np.concatenate([of.units for of in of_tasks]),
        nll=np.concatenate([of.nll for of in of_tasks]),
        num_tokens=np.concatenate([of.num_tokens for of in of_tasks]),
        num_bytes=-none,
        labels=none,
        predictions=none,
        class_log_probabilities=np.empty((len(none), 0)),
    )


def _decided(asked: Sequence[_Asked]) -> list[Judged]:
    verdicts = decide_together([one.comparison for one in asked]) if asked else ()
    return [_judged(one, verdict) for one, verdict in zip(asked, verdicts, strict=True)]


def _judged(one: _Asked, verdict: Verdict) -> Judged:
    are_new = len(one.tasks) > 1 and one.mean.are_new
    verdict = verdict.replace(gain=Estimate(estimate=0.0, low=None, high=None))  # logs hold no base
    if len(one.tasks) > 1 and not are_new:  # without the pseudo-units of the tasks
        verdict = verdict.replace(num_units=sum(len(np.unique(task.runs[FULL][0].units)) for task in one.tasks))
    needed = None
    if one.seeds == "fixed":
        verdict = verdict.replace(would_decide=None)  # it counts seeds
    if one.seeds == "fixed" and verdict.reason == "interval" and verdict.standard_error:
        level = (1 - verdict.confidence) / 2
        needed = items_needed(verdict.standard_error, verdict.num_units, one.margin.absolute or 0.0, level)
    return Judged(verdict, one.tasks, one.seeds, are_new, needed)


def items_needed(error: float, num_units: int, margin: float, level: float) -> int | None:
    """Units with which two truly equal checkpoints are found "as good" in 80% of cases; None: over a billion.

    `error` is the standard error with `num_units`; it falls with the square root of their number (`power.py`).
    """

    def suffices(units: int) -> bool:
        freedom, at = units - 1, margin / (error * np.sqrt(num_units / units))
        return bool(1 - np.nan_to_num(special.nctdtr(freedom, at, special.stdtrit(freedom, 1 - level))) >= POWER)

    return smallest(suffices, MIN_UNITS, MOST_UNITS)
