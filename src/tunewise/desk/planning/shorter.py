"""Shorter versions of a study that is planned at more than an hour, with what each costs in certainty."""

from collections.abc import Iterator

from tunewise.desk.metrics.metrics import primary_metric
from tunewise.desk.planning.budget import resolved_margin, versions
from tunewise.desk.planning.estimates import study_seconds
from tunewise.records.plan import StudyPlan
from tunewise.spec.resolved import ResolvedStudy
from tunewise.text.numbers import duration

LONG = 3600.0  # seconds
BUDGETS = {"1h": 3600.0, "10m": 600.0}


def too_long(study: ResolvedStudy, plan: StudyPlan) -> tuple[str, tuple[str, ...]] | None:
    """A sentence on the planned time, and one on each shorter version.

    None: it is planned at up to an hour or has a budget, or its time is not known.
    """
    seconds = study_seconds(study, plan)
    if study.budget or seconds is None or seconds.least <= LONG:
        return None
    planned = f"This study is planned at {duration(seconds.least)} to {duration(seconds.longest)}."
    return f"{planned} Shorter versions of the same command:", tuple(_shorter(study, plan))


def _shorter(study: ResolvedStudy, plan: StudyPlan) -> Iterator[str]:
    units = next(split.units for split in plan.work.splits if split.split == "test")

    def resolved(version: ResolvedStudy) -> str:
        return f"{resolved_margin(version, plan.task, units):.2g} in {primary_metric(plan.task)}"

    for name, budget in BUDGETS.items():
        fitting = (version for version in versions(study) if _most(version, plan) <= budget)
        version = next(fitting, None)
        if version is None:
            yield f"--budget {name}: not even the smallest version fits. Use less data (data.limit) or fewer arms."
            continue
        looks = ", ".join(map(str, version.looks))
        yield (
            f"--budget {name}: looks at {looks} seeds, at most {version.tuning.cap} rates for each arm. The smallest "
            f"margin that can be resolved is about {resolved(version)} instead of {resolved(study)}."
        )


def _most(study: ResolvedStudy, plan: StudyPlan) -> float:
    seconds = study_seconds(study, plan)
    assert seconds is not None, "known for the whole study"
    return seconds.longest
