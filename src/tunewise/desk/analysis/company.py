"""Runs that shared a machine: how many others ran beside each, and the runs whose times are comparable."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from tunewise.records import RunRecord


def company(run: RunRecord, records: Iterable[RunRecord]) -> int:
    """Mean number of other runs on the same machine while this one ran, rounded; 0 if its times were not recorded."""
    span = span_of(run)
    if span is None:
        return 0
    shared = sum(
        overlap_seconds(run, other) for other in records if other.run_id != run.run_id and is_same_machine(run, other)
    )
    return round(shared / max((span[1] - span[0]).total_seconds(), 1e-9))


def same_company(runs: Mapping[str, Sequence[RunRecord]], records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Of each arm the runs whose times are comparable: the same number of other runs beside them in every arm.

    It is the number for which the arm with the fewest such runs has most. Empty lists: there is no such number.
    """
    numbers = {arm: {run.run_id: company(run, records) for run in of_arm} for arm, of_arm in runs.items()}
    counts = [Counter(of_arm.values()) for of_arm in numbers.values() if of_arm]
    common = set(counts[0]).intersection(*counts) if counts else set()
    chosen = max(sorted(common), key=lambda number: min(of[number] for of in counts), default=None)
    return {arm: [run for run in of_arm if numbers[arm][run.run_id] == chosen] for arm, of_arm in runs.items()}


def overlap_seconds(a: RunRecord, b: RunRecord) -> float:
    """Seconds during which both ran; 0 if that was not recorded."""
    of_a, of_b = span_of(a), span_of(b)
    if of_a is None or of_b is None:
        return 0.0
    return max(0.0, (min(of_a[1], of_b[1]) - max(of_a[0], of_b[0])).total_seconds())


def overlapping(records: Sequence[RunRecord]) -> list[tuple[RunRecord, RunRecord]]:
    """Pairs of records whose recorded times overlap, on any machines, in the order of the records.

    A run is compared only with those that had not ended when it began, because a study may have a thousand runs.
    """
    spans = ((span_of(run), number) for number, run in enumerate(records))
    found: list[tuple[int, int]] = []
    running: list[tuple[datetime, int]] = []  # end and number
    for (start, end), number in sorted((span, number) for span, number in spans if span and span[0] < span[1]):
        running = [(until, other) for until, other in running if until > start]
        found += [(min(number, other), max(number, other)) for _, other in running]
        running.append((end, number))
    return [(records[a], records[b]) for a, b in sorted(found)]


def span_of(run: RunRecord) -> tuple[datetime, datetime] | None:
    """Start and end of a run; None: not recorded."""
    if run.usage is None or run.usage.started is None or run.usage.ended is None:
        return None
    return run.usage.started, run.usage.ended


def is_same_machine(a: RunRecord, b: RunRecord) -> bool:
    """Whether both ran on one machine. Runs from before it was recorded: on one with the same processor or GPU."""
    if a.environment is None or b.environment is None:
        return a.environment is b.environment
    if a.environment.machine and b.environment.machine:
        return a.environment.machine == b.environment.machine
    return (a.environment.device_name, a.environment.system) == (b.environment.device_name, b.environment.system)


def is_same_device(a: RunRecord, b: RunRecord) -> bool:
    """Whether both ran on one GPU, or on the cores of one machine."""
    if not is_same_machine(a, b):
        return False
    gpus = [run.environment.gpu if run.environment else None for run in (a, b)]
    return None in gpus or gpus[0] == gpus[1]
