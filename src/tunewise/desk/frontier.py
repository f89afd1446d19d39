"""What an arm costs, beside the full arm, and which cost tells the arms apart best."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from tunewise.records import RunRecord
from tunewise.spec import Frozen

Number = float | None


class Cost(Frozen):
    """Medians over the confirmed runs of one arm; None: nothing was trained, saved, or the system cannot say."""

    trainable_parameters: int | None
    train_seconds: float | None  # optimizer steps only
    tokens_per_second: float | None  # processed by training, padding excluded
    supervised_tokens_per_second: float | None  # of these, trained on
    peak_memory_bytes: int | None  # of the training phase
    peak_memory_above_start_bytes: int | None  # above what the process held before the model was loaded
    saved_bytes: int | None  # of the deliverable's weights


COST_NAMES = tuple(Cost.model_fields)

# Costs a chart may show, the most telling kind first where two tell the arms apart equally well.
CHARTED = ("train_seconds", "saved_bytes", "peak_memory_bytes")


def cost_of(runs: Sequence[RunRecord]) -> Cost:
    """The cost of one arm from its confirmed runs (none: all None)."""
    return Cost(
        trainable_parameters=_whole(_median(runs, lambda run: run.tuned.trainable_parameters if run.tuned else None)),
        train_seconds=_median(runs, lambda run: run.usage.train_seconds if run.usage else None),
        tokens_per_second=_median(runs, lambda run: _speed(run, supervised=False)),
        supervised_tokens_per_second=_median(runs, lambda run: _speed(run, supervised=True)),
        peak_memory_bytes=_whole(_median(runs, lambda run: _peak(run)[0])),
        peak_memory_above_start_bytes=_whole(_median(runs, lambda run: _peak(run)[1])),
        saved_bytes=_whole(_median(runs, lambda run: run.usage.saved_bytes if run.usage else None)),
    )


def ratios(cost: Cost, full: Cost | None) -> dict[str, float | None]:
    """Each figure of `cost` divided by full's; None where either is missing or full's is 0."""
    return {name: _ratio(getattr(cost, name), getattr(full, name) if full else None) for name in COST_NAMES}


def telling_cost(costs: Mapping[str, Cost]) -> str | None:
    """The name of the charted cost whose largest and smallest value lie furthest apart, as a factor; None: none."""
    spread = {}
    for name in CHARTED:
        values = [value for cost in costs.values() if (value := getattr(cost, name))]
        if len(values) >= 2:
            spread[name] = max(values) / min(values)
    return max(spread, key=lambda name: spread[name]) if spread else None


def _median(runs: Sequence[RunRecord], value: Callable[[RunRecord], Number]) -> Number:
    known = [number for run in runs if (number := value(run)) is not None]
    return float(statistics.median(known)) if known else None


def _whole(number: Number) -> int | None:
    return None if number is None else round(number)


def _speed(run: RunRecord, *, supervised: bool) -> Number:
    if run.usage is None or not run.usage.train_seconds:
        return None
    tokens = run.usage.num_supervised_tokens if supervised else run.usage.num_tokens
    return tokens / run.usage.train_seconds


def _peak(run: RunRecord) -> tuple[int | None, int | None]:
    memory = run.usage.train_memory if run.usage else None
    return (memory.peak_bytes, memory.above_start_bytes) if memory else (None, None)


def _ratio(value: Number, full: Number) -> Number:
    return None if value is None or not full else value / full
