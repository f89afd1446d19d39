"""Cost of an arm relative to full, and the cost that differs most between arms."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from tunewise.records import Memory, RunRecord, Usage
from tunewise.spec import Frozen

Number = float | None
Item = TypeVar("Item")


class Cost(Frozen):
    """Medians over the confirmed runs of one arm; None: nothing was trained or saved, or it cannot be measured."""

    trainable_parameters: int | None
    train_seconds: float | None  # optimizer steps only
    step_seconds: float | None  # the median step, without the first one
    first_step_seconds: float | None  # including warm-up and compilation
    seconds_to_quality: (
        float | None
    )  # median time until the validation loss reaches what every arm reaches (desk/analysis/curves.py)
    tokens_per_second: float | None  # processed by training, padding excluded
    supervised_tokens_per_second: float | None  # of these, trained on
    load_peak_bytes: int | None
    peak_memory_bytes: int | None  # of the training phase
    peak_memory_above_start_bytes: int | None  # above what the process held before the model was loaded
    evaluate_peak_bytes: int | None
    saved_bytes: int | None  # of the deliverable's weights


COST_NAMES = tuple(Cost.model_fields)

# Costs that a chart may show, in order of preference if two differ equally between arms.
CHARTED = ("train_seconds", "saved_bytes", "peak_memory_bytes")


class TimedRun(NamedTuple):
    """A confirmed run with the seconds of its optimizer steps, in order; empty if nothing was trained."""

    record: RunRecord
    step_seconds: tuple[float, ...]


def cost_of(every: Sequence[TimedRun], timed: Sequence[TimedRun], seconds_to_quality: float | None = None) -> Cost:
    """The cost of one arm from its confirmed runs, its times from those in `timed` (none: None)."""
    runs = [run.record for run in every]
    in_time = [run.record for run in timed]
    return Cost(
        trainable_parameters=_whole(_median(runs, lambda run: run.tuned.trainable_parameters if run.tuned else None)),
        train_seconds=_median(in_time, lambda run: run.usage.train_seconds if run.usage else None),
        step_seconds=_median(timed, lambda run: usual_step(run.step_seconds)),
        first_step_seconds=_median(timed, lambda run: run.step_seconds[0] if run.step_seconds else None),
        seconds_to_quality=seconds_to_quality,
        tokens_per_second=_median(in_time, lambda run: _speed(run, supervised=False)),
        supervised_tokens_per_second=_median(in_time, lambda run: _speed(run, supervised=True)),
        load_peak_bytes=_peak_bytes(runs, lambda usage: usage.load_memory),
        peak_memory_bytes=_peak_bytes(runs, lambda usage: usage.train_memory),
        peak_memory_above_start_bytes=_whole(_median(runs, _above_start)),
        evaluate_peak_bytes=_peak_bytes(runs, lambda usage: usage.evaluate_memory),
        saved_bytes=_whole(_median(runs, lambda run: run.usage.saved_bytes if run.usage else None)),
    )


def usual_step(seconds: Sequence[float]) -> float | None:
    """Median step time without the first step, which includes setup; None: fewer than two steps."""
    return float(statistics.median(seconds[1:])) if len(seconds) > 1 else None


def ratios(cost: Cost, full: Cost | None) -> dict[str, float | None]:
    """Each number of `cost` divided by full's; None if either is missing or full's is 0."""
    return {name: _ratio(getattr(cost, name), getattr(full, name) if full else None) for name in COST_NAMES}


def telling_cost(costs: Mapping[str, Cost]) -> str | None:
    """Name of the charted cost with the largest ratio between arms; None: none is known for two arms."""
    spread = {}
    for name in CHARTED:
        values = [value for cost in costs.values() if (value := getattr(cost, name))]
        if len(values) >= 2:
            spread[name] = max(values) / min(values)
    return max(spread, key=lambda name: spread[name]) if spread else None


def _median(runs: Sequence[Item], value: Callable[[Item], Number]) -> Number:
    known = [number for run in runs if (number := value(run)) is not None]
    return float(statistics.median(known)) if known else None


def _whole(number: Number) -> int | None:
    return None if number is None else round(number)


def _speed(run: RunRecord, *, supervised: bool) -> Number:
    if run.usage is None or not run.usage.train_seconds:
        return None
    tokens = run.usage.num_supervised_tokens if supervised else run.usage.num_tokens
    return tokens / run.usage.train_seconds


def _peak_bytes(runs: Sequence[RunRecord], phase: Callable[[Usage], Memory | None]) -> int | None:
    def peak(run: RunRecord) -> Number:
        memory = phase(run.usage) if run.usage else None
        return memory.peak_bytes if memory else None

    return _whole(_median(runs, peak))


def _above_start(run: RunRecord) -> Number:
    memory = run.usage.train_memory if run.usage else None
    return memory.above_start_bytes if memory else None


def _ratio(value: Number, full: Number) -> Number:
    return None if value is None or not full else value / full
