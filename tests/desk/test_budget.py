"""A budget shrinks caps and looks alike for all arms, in a fixed order, and says what that costs."""

from collections.abc import Callable
from typing import Any

import pytest

from tunewise.desk.planning.budget import expected_seconds, first_trial, fit, within_budget
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.study.state import StudyState
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import StudySpec, forgetting_steps, parse_budget
from tunewise.storage.ledger import Ledger


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90min", 5400), ("1.5 h", 5400), ("45s", 45), ("1d", 86400), (" .5m", 30)]
)
def test_a_budget_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-1h", "0h", "2 hours", "1h30", "nan h"])
def test_any_other_text_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="'2h', '90min' or '45s'"):
        parse_budget(text)


def opened(ledger: Ledger) -> tuple[StudySpec, DataSummary, RunRecord]:
    study, data = ledger.study(), ledger.data_summary()
    first = first_trial(study, data, ledger.records())
    assert first is not None
    return study, data, first


def test_a_study_that_fits_stays_as_it_was_declared(finished: Ledger) -> None:
    study, data, first = opened(finished)
    plan = fit(study, data, first, 1e9)
    assert plan.study == study
    assert "Nothing was reduced" in plan.sentence


def test_smaller_budgets_give_up_the_second_look_then_trials_then_seeds_in_every_arm_alike(make_study: Any) -> None:
    study, data, first = opened(make_study(study={"looks": [5]}, max_runs=12))
    seen = []
    seconds = expected_seconds(study, data, first)
    for share in (1.0, 0.9, 0.7, 0.5, 0.3, 0.01):
        plan = fit(study, data, first, seconds * share)
        version = (plan.study.looks[-1], plan.study.tuning.cap)
        seen.append(version)
        assert plan.study.arms == study.arms
        assert plan.study.train == study.train
        if expected_seconds(plan.study, data, first) > seconds * share:
            assert version == (3, study.tuning.rates), "only the smallest version may be too long"
            assert "Even the smallest" in plan.sentence
        elif plan.study != study:
            assert "Reduced equally for all arms" in plan.sentence
            assert "margin that can be resolved grows" in plan.sentence
    assert seen == sorted(seen, reverse=True), "less time never buys more"
    assert seen[0] == (study.looks[-1], study.tuning.cap)
    assert seen[-1] == (3, study.tuning.rates)


def test_the_estimate_is_the_time_of_a_trial_times_the_runs_plus_what_confirmation_scores(finished: Ledger) -> None:
    """3 arms; a trial takes 0.4 s to load, train_seconds, and 3.1 s for 4 times valid's tokens and 20,000 more."""
    study, data, first = opened(finished)
    assert first.usage is not None
    valid, test, general = data.split("valid").tokens, data.split("test").tokens, 20_000
    trial = 0.4 + (first.usage.train_seconds or 0) + 3.1
    per_token = 3.1 / (4 * valid + general)
    points = forgetting_steps(study.forgetting.points, 100)
    between = len(points - {0} - study.train.evaluation_steps(100))
    confirmed = trial + per_token * (test + (1 + between) * valid + len(points) * general)
    base = 0.4 + per_token * (valid + test + general)
    assert expected_seconds(study, data, first) == pytest.approx(
        3 * (study.tuning.cap * trial + study.looks[-1] * confirmed) + base
    )


def test_the_first_trial_is_the_same_however_far_the_study_is(make_study: Any, finished: Ledger) -> None:
    study, data, first = opened(finished)
    early = make_study(max_runs=2)
    found = first_trial(early.study(), early.data_summary(), early.records())
    assert found is not None
    assert found.run_id == first.run_id
    assert first_trial(study, data, []) is None


def test_a_study_without_a_budget_or_a_first_trial_is_left_alone(finished: Ledger) -> None:
    study, data, first = opened(finished)
    assert within_budget(study, data, [first]) is None
    limited = study.replace(budget="1s")
    assert within_budget(limited, data, []) is None
    plan = within_budget(limited, data, [first])
    assert plan is not None
    assert plan.study.tuning.cap == study.tuning.rates


def test_the_report_says_what_the_budget_cut(make_study: Any) -> None:
    report = build_report(make_study(study={"budget": "1s", "looks": [5]}))
    (note,) = [finding for finding in report.warnings if finding.id == "budget"]
    assert "Even the smallest version needs" in note.sentence
    assert "verdict at 3 seeds instead of 5" in note.sentence
    assert len(report.study.planned_seeds) == 3


def test_with_workers_the_budget_counts_machine_time_and_the_wall_time_is_named_beside_it(
    make_study: Callable[..., Ledger],
) -> None:
    state = StudyState.read(make_study(study={"budget": "2h"}, max_runs=2))
    shared = StudyState.read(make_study(study={"budget": "2h", "machine": {"workers": 4}}, max_runs=2))
    assert state.budget is not None
    assert shared.budget is not None
    assert "machine time" not in state.budget
    assert "of machine time, which 4 workers do in about" in shared.budget
    assert (state.study.looks, state.study.tuning) == (shared.study.looks, shared.study.tuning)
