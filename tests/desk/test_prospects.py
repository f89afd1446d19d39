"""The chance of an answer after the search, and shorter versions of a long study, before the money is spent."""

from typing import Any

import numpy as np
import pytest
from planned_study import SPEED
from test_plan_report import timed_study

from tunewise.desk.planning.shorter import too_long
from tunewise.desk.report.pages.html import write_report
from tunewise.desk.report.sentences import prospect
from tunewise.desk.statistics.power import chance_of_as_good
from tunewise.desk.study.prospects import prospects
from tunewise.desk.study.state import StudyState
from tunewise.records.plan import StudyPlan
from tunewise.storage.ledger import Ledger


def test_the_chance_of_an_answer_is_that_of_the_trials_spread_at_every_look(make_study: Any) -> None:
    ledger: Ledger = make_study(study={"looks": [3, 5], "margin": "0.015"})
    state = StudyState.read(ledger)
    found = {of.arm: of for of in prospects(state)}
    assert set(found) == {"lora-r8", "lora-r16-all"}
    of = found["lora-r8"]
    assert of.margin == 0.015
    assert of.looks == (3, 5)
    units = state.data.split("test").units
    assert of.test_units == units
    assert of.chances[1] == pytest.approx(chance_of_as_good(units, 5, of.unit_sd, 0.015, 0.025 / 2))
    assert of.chances[0] < of.chances[1] < of.with_more_rows
    assert of.smallest_margin == pytest.approx(
        np.sqrt(7.85 / units) * of.unit_sd, rel=0.35
    )  # at Holm's level and with few degrees of freedom it is more
    assert "the chance to find it as good within 0.015 nats" in prospect(of)
    assert "less than 1%" in prospect(of.replace(chances=(0.001, 0.5)))
    assert "resolve no margin" in prospect(of.replace(smallest_margin=None))


def test_no_test_score_has_a_part_in_it(make_study: Any) -> None:
    """The estimate is the same whatever the confirmed runs scored."""
    ledger: Ledger = make_study(study={"looks": [3, 5]})
    everything = StudyState.read(ledger)
    before = everything.asked_for(())
    searched = before.of_arms(list(before.study.arms))
    trials_only = type(everything)(
        **{**vars(searched), "records": [r for r in searched.records if r.spec.role != "confirm"]}
    )
    assert prospects(trials_only) == prospects(everything)


def test_without_full_or_before_the_search_there_is_no_chance_to_tell(make_study: Any) -> None:
    one = {"lora-r8": {"method": "lora", "rank": 8, "targets": "qkv"}}
    assert prospects(StudyState.read(make_study(study={"arms": one}))) == ()
    assert prospects(StudyState.read(make_study(max_runs=1))) == ()


def test_page_and_json_repeat_what_was_printed_before_the_first_test_score(make_study: Any) -> None:
    ledger: Ledger = make_study(study={"looks": [3, 5], "margin": "0.015"})
    printed = [prospect(of) for of in prospects(StudyState.read(ledger))]
    report = write_report(ledger)
    page = (ledger.folder / "report.html").read_text(encoding="utf-8")
    assert [of.sentence for of in report.prospects] == printed
    assert len(printed) == 2
    for sentence in printed:
        assert sentence in page
    begun = make_study(max_runs=1)
    assert write_report(begun).prospects == ()
    assert "Chance of an answer" not in (begun.folder / "report.html").read_text(encoding="utf-8")


def test_a_metric_that_the_trials_did_not_measure_has_no_chance_to_tell(make_study: Any) -> None:
    own = {"metrics": [{"name": "last_number", "extract": r"(\d+)\D*$"}], "primary": "last_number", "margin": "2pp"}
    assert prospects(StudyState.read(make_study(study=own))) == ()


def test_a_huge_margin_has_the_chance_of_one() -> None:
    chances = [chance_of_as_good(100, seeds, 1.0, margin / 10) for seeds in (3, 5) for margin in range(10, 100)]
    assert np.all(np.isfinite(chances))
    assert chances[-1] == 1.0


def at_speed(plan: StudyPlan, step_seconds: float) -> StudyPlan:
    speed = SPEED.replace(step_seconds=step_seconds)
    return plan.replace(arms={name: arm.replace(speed=speed) for name, arm in plan.arms.items()})


def test_a_study_of_more_than_an_hour_names_versions_that_fit() -> None:
    asked, plan = timed_study(looks=[5, 10], forgetting={"tokens": 0})
    found = too_long(asked, at_speed(plan, 1.5))
    assert found is not None
    sentence, versions = found
    assert sentence.startswith("This study is planned at ")
    assert [version.partition(":")[0] for version in versions] == ["--budget 1h", "--budget 10m"]
    assert "looks at 3 seeds" in versions[0]
    assert "not even the smallest version fits" in versions[1]
    assert too_long(asked.replace(budget="2h"), at_speed(plan, 1.5)) is None, "its author has decided already"
    assert too_long(asked, at_speed(plan, 0.1)) is None
