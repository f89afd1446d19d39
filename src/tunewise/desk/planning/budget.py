"""Reduce a study to fit a time budget, equally for all arms, and report what that costs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tunewise.desk.metrics.metrics import primary_metric
from tunewise.desk.planning.expected import Length, expected_runs, later_looks
from tunewise.desk.protocol import schedule
from tunewise.desk.statistics.power import MIN_SEEDS, assumed_unit_sd, smallest_margin, strictest_level
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import TASKS, Task, parse_budget
from tunewise.spec.resolved import ResolvedStudy
from tunewise.text.numbers import duration


class Plan(NamedTuple):
    """The study that fits the budget, and a sentence on what was reduced."""

    study: ResolvedStudy
    sentence: str


def fit(study: ResolvedStudy, data: DataSummary, first: RunRecord, seconds: float) -> Plan:
    """The largest version of `study` expected to finish within `seconds`, or the smallest if none does.

    `first` is the study's first learning-rate trial; the time of every other run is estimated from it. Later looks
    are dropped first, then trials beyond 5, seeds beyond 3, and trials beyond the first rates. A missing seed costs
    resolution; an edge that was not extended may cost the verdict.
    """
    possible = list(versions(study))
    needed = [expected_seconds(version, data, first) for version in possible]
    chosen = next((i for i, time in enumerate(needed) if time <= seconds), len(possible) - 1)
    return Plan(possible[chosen], _sentence(study, possible[chosen], data, needed[chosen], seconds))


def versions(study: ResolvedStudy) -> Iterator[ResolvedStudy]:
    """Versions from the declared study down to the smallest one that can still give a verdict."""
    least_cap = 3 if study.tuning.search == "short" else study.tuning.rates
    steps: Sequence[tuple[int, int, int]] = (  # looks, seeds of the last look, cap; all at most
        *((number, study.looks[number - 1], study.tuning.cap) for number in range(len(study.looks), 0, -1)),
        (1, study.looks[0], 5),
        (1, MIN_SEEDS, 5),
        (1, MIN_SEEDS, least_cap),
    )
    last = None
    for num_looks, seeds, cap in steps:
        looks = tuple(min(look, seeds) for look in study.looks[:num_looks])
        tuning = study.tuning.replace(cap=max(min(study.tuning.cap, cap), least_cap))
        version = study.replace(looks=looks, tuning=tuning)
        if version != last:
            yield version
        last = version


def expected_seconds(study: ResolvedStudy, data: DataSummary, first: RunRecord) -> float:
    """Wall-clock seconds of the whole study at its cap, if every step takes as long as one of `first`.

    Scoring time is assumed to be proportional to tokens, whatever the precision.
    """
    usage = first.usage
    assert usage is not None, "a finished run has its usage"
    tokens = {name: data.split(name).tokens for name in ("valid", "test")} | {"general": study.forgetting.tokens}
    num_steps = schedule.num_steps(study, data)
    length = Length(num_steps, has_general=data.inputs.general is not None)
    expected = [*expected_runs(study, length, "cap"), *later_looks(study, length)]
    own = next(runs for runs in expected if (runs.arm, runs.role) == (first.spec.arm, "tune"))
    per_token = usage.evaluate_seconds / max(1, sum(own.scored_tokens(tokens)))
    per_step = (usage.train_seconds or 0.0) / num_steps
    return sum(
        runs.num_runs * (usage.load_seconds + runs.num_steps * per_step + sum(runs.scored_tokens(tokens)) * per_token)
        for runs in expected
    )


def first_trial(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]) -> RunRecord | None:
    """The first trial of the schedule, if it is done; the same record however often the study is resumed."""
    trials = (spec for spec in schedule.next_runs(study, data, (), ()) if spec.role == "tune")
    wanted = next(trials, None)
    return next((r for r in records if wanted and r.run_id == wanted.run_id and r.usage), None)


def within_budget(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]) -> Plan | None:
    """The study reduced to its own budget, based on its first trial; None: no budget, or no trial yet."""
    first = first_trial(study, data, records) if study.budget else None
    if study.budget is None or first is None:
        return None
    return fit(study, data, first, parse_budget(study.budget))


def _sentence(declared: ResolvedStudy, chosen: ResolvedStudy, data: DataSummary, needed: float, seconds: float) -> str:
    workers = declared.machine.workers
    time = f"about {duration(needed)} of {duration(seconds)}"
    if isinstance(workers, int) and workers > 1:
        time += f" of machine time, which {workers} workers do in about {duration(needed / workers)}"
    if needed > seconds:
        fits = f"Even the smallest version needs {time}. Use fewer arms, fewer steps or less data."
    else:
        fits = f"The study needs {time}."
    if chosen == declared:
        return fits if needed > seconds else f"{fits} Nothing was reduced."
    units = data.split("test").units
    before, after = (resolved_margin(study, data.task, units) for study in (declared, chosen))
    looks, former = (" and ".join(map(str, study.looks)) for study in (chosen, declared))
    return (
        f"{fits} Reduced equally for all arms: at most {chosen.tuning.cap} rates instead of {declared.tuning.cap}, "
        f"verdict at {looks} seeds instead of {former}. The smallest margin that can be resolved grows from about "
        f"{before:.2g} to {after:.2g} in {primary_metric(data.task)}, if seeds vary as much as this test set's own "
        "uncertainty."
    )


def resolved_margin(study: ResolvedStudy, task: Task, num_units: int) -> float:
    """The smallest margin that can be resolved if seeds vary as much as the test set's own uncertainty.

    In units of the metric that selects.
    """
    spread = assumed_unit_sd(primary_metric(task), TASKS[task].has_classes)
    assert spread is not None, "known for the metrics that select"
    level = strictest_level(study.num_comparisons)
    return smallest_margin(num_units, study.looks[-1], spread, spread / num_units**0.5, level)
