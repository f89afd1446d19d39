"""A study cut down to a budget of time: caps and looks shrink alike for all arms, and it is said what that costs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tunewise.desk.planning.expected import Length, expected_runs, second_look
from tunewise.desk.protocol import schedule
from tunewise.desk.statistics.metrics import primary_metric
from tunewise.desk.statistics.power import ASSUMED_UNIT_SD, MIN_SEEDS, smallest_margin
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import parse_budget
from tunewise.spec.resolved import ResolvedStudy
from tunewise.text.numbers import duration


class Plan(NamedTuple):
    """What fits into the budget."""

    study: ResolvedStudy
    sentence: str


def fit(study: ResolvedStudy, data: DataSummary, first: RunRecord, seconds: float) -> Plan:
    """The largest version of `study` that is expected to end within `seconds`; the smallest where none is.

    `first` is the study's first learning-rate trial, from which the time of every other run is estimated; it counts.
    The second look goes first, then trials beyond 5, then seeds beyond 3, then trials beyond the first rates: a seed
    saved costs resolution, an edge that was not extended may cost the verdict.
    """
    versions = list(_versions(study))
    needed = [expected_seconds(version, data, first) for version in versions]
    chosen = next((i for i, time in enumerate(needed) if time <= seconds), len(versions) - 1)
    return Plan(versions[chosen], _sentence(study, versions[chosen], data, needed[chosen], seconds))


def _versions(study: ResolvedStudy) -> Iterator[ResolvedStudy]:
    """From the declared study to the smallest one that can still say a word; each smaller than the one before."""
    least_cap = 3 if study.tuning.search == "short" else study.tuning.rates
    steps: Sequence[tuple[int, int, int]] = (  # looks, seeds of the last look, cap; all at most
        (2, study.looks[-1], study.tuning.cap),
        (1, study.looks[0], study.tuning.cap),
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
    """Wall-clock seconds of the whole study at its cap, if every step takes as long as one of `first` did.

    Scoring is taken as proportional to tokens, in whatever precision.
    """
    usage = first.usage
    assert usage is not None, "a finished run has its usage"
    tokens = {name: data.split(name).tokens for name in ("valid", "test")} | {"general": study.forgetting.tokens}
    num_steps = schedule.num_steps(study, data)
    length = Length(num_steps, has_general=data.inputs.general is not None)
    expected = [*expected_runs(study, length, "cap"), *second_look(study, length)]
    own = next(runs for runs in expected if (runs.arm, runs.role) == (first.spec.arm, "tune"))
    per_token = usage.evaluate_seconds / max(1, sum(own.scored_tokens(tokens)))
    per_step = (usage.train_seconds or 0.0) / num_steps
    return sum(
        runs.num_runs * (usage.load_seconds + runs.num_steps * per_step + sum(runs.scored_tokens(tokens)) * per_token)
        for runs in expected
    )


def first_trial(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]) -> RunRecord | None:
    """The first trial that the schedule asks for, if it is done: the same record however often the study is resumed."""
    trials = (spec for spec in schedule.next_runs(study, data, (), ()) if spec.role == "tune")
    wanted = next(trials, None)
    return next((r for r in records if wanted and r.run_id == wanted.run_id and r.usage), None)


def within_budget(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]) -> Plan | None:
    """What fits into the study's own budget, as far as its first trial tells; None: no budget, or nothing known yet."""
    first = first_trial(study, data, records) if study.budget else None
    if study.budget is None or first is None:
        return None
    return fit(study, data, first, parse_budget(study.budget))


def _sentence(declared: ResolvedStudy, chosen: ResolvedStudy, data: DataSummary, needed: float, seconds: float) -> str:
    time = f"about {duration(needed)} of {duration(seconds)}"
    if needed > seconds:
        fits = f"Even the smallest version needs {time}: fewer arms, fewer steps or less data would fit."
    else:
        fits = f"The study needs {time}."
    if chosen == declared:
        return fits if needed > seconds else f"{fits} Nothing was left out."
    metric = primary_metric(data.task)
    units, spread = data.split("test").units, ASSUMED_UNIT_SD[metric]
    before, after = (
        smallest_margin(units, study.looks[-1], spread, spread / units**0.5) for study in (declared, chosen)
    )
    looks, former = (" and ".join(map(str, study.looks)) for study in (chosen, declared))
    return (
        f"{fits} Cut down alike in all arms: at most {chosen.tuning.cap} rates instead of {declared.tuning.cap}, "
        f"looks at {looks} seeds instead of {former}. The smallest margin that can be resolved grows from about "
        f"{before:.2g} to {after:.2g} in {metric}, if seeds differ as much as this test set's own uncertainty."
    )
