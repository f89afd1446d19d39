"""The chance of an answer, before the money is spent: after the search, and before any test score is read."""

import math

from tunewise.desk.metrics.metrics import metric_named, primary_metric
from tunewise.desk.protocol import trials
from tunewise.desk.protocol.ranks import margin_on_valid, reference_runs
from tunewise.desk.statistics.look import looks_of
from tunewise.desk.statistics.paired import PairedRuns
from tunewise.desk.statistics.power import chance_of_as_good, smallest_margin, strictest_level
from tunewise.desk.study.state import StudyState
from tunewise.records.plan import Prospect

MORE_ROWS = 4  # times the test units, as an example of what would raise the chance


def prospects(state: StudyState) -> tuple[Prospect, ...]:
    """One per trained arm in question; empty before the searches are over, and without full or a known margin.

    Raises StudyError if a file of scores is not valid.
    """
    study, full = state.study, state.full
    of_full = trials.chosen_trials(state.records, full) if full else []
    if not of_full:
        return ()
    metric = metric_named(primary_metric(study.task, study.primary))
    if metric.name != primary_metric(study.task):
        return ()  # the trials did not measure it
    by_full = state.scores(of_full, "valid")
    reference = state.scores(reference_runs(study, state.records), "valid")
    margin = margin_on_valid(study, metric.name, by_full, reference)
    if margin <= 0:
        return ()
    found = []
    for arm in study.compared_arms:
        of_arm = trials.chosen_trials(state.records, arm)
        if len(of_arm) != len(of_full):
            continue
        runs = {"arm": state.scores(of_arm, "valid"), "full": by_full}
        spread = float(PairedRuns(metric, runs).contrast({"arm": 1, "full": -1}).unit_means().std(ddof=1))
        if spread > 0:
            found.append(_prospect(state, arm, metric.name, margin, spread))
    return tuple(found)


def _prospect(state: StudyState, arm: str, metric: str, margin: float, spread: float) -> Prospect:
    study, units, shares = state.study, state.data.split("test").units, state.study.num_comparisons

    def chance(num_units: int, seeds: int, error: float) -> float:
        return chance_of_as_good(num_units, seeds, spread, margin, error / shares)

    looks = looks_of(study.looks, can_stop=False)
    smallest = smallest_margin(units, study.looks[-1], spread, level=strictest_level(shares))
    return Prospect(
        arm=arm,
        metric=metric,
        margin=margin,
        unit_sd=spread,
        test_units=units,
        looks=study.looks,
        chances=tuple(chance(units, look.seeds, look.error) for look in looks),
        smallest_margin=smallest if math.isfinite(smallest) else None,
        with_more_rows=chance(MORE_ROWS * units, looks[-1].seeds, looks[-1].error),
    )
