"""The verdict as a function of the margin: above the smallest one the arm is as good, below it is not."""

from pathlib import Path

import numpy as np
import pytest

from desk.conftest import write_study
from desk.test_verdict import text_study
from tunewise.desk.fairness.blocking import hold_back
from tunewise.desk.fairness.finding import Finding
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.pages.html import to_html
from tunewise.desk.report.wording import smallest_margin
from tunewise.desk.statistics.comparison import ArmScores, decide
from tunewise.desk.statistics.verdict import RateSearch
from tunewise.spec import Margin


@pytest.mark.parametrize("harm", [0.002, 0.01, 0.03])
@pytest.mark.parametrize("headroom", [None, 0.0, 0.001, 0.004, 0.02])
def test_just_above_the_smallest_margin_the_arm_is_as_good_and_just_below_it_is_not(
    harm: float, headroom: float | None
) -> None:
    runs: ArmScores = text_study(3, harm)
    search = RateSearch(headroom_of_full=headroom)

    def outcome(margin: float) -> str:
        return decide("lora", runs, "nll", Margin(absolute=margin), search).outcome

    least = decide("lora", runs, "nll", Margin(absolute=0.02), search).smallest_margin_as_good
    assert least is not None
    assert least > harm / 2
    assert [outcome(least * factor) for factor in (1.0001, 1.1, 2, 10)] == ["as good"] * 4
    assert "as good" not in [outcome(least * factor) for factor in np.linspace(0.05, 0.9999, 12)]


def test_an_arm_that_is_better_is_as_good_at_any_margin() -> None:
    found = decide("lora", text_study(3, -0.05), "nll", Margin(absolute=0.02))
    assert (found.outcome, found.smallest_margin_as_good) == ("better", 0.0)
    assert smallest_margin(found) == "lora would be as good at any margin."


def test_a_rule_that_withholds_as_good_withholds_its_margin() -> None:
    found = decide("lora", text_study(3, 0.03), "nll", Margin(absolute=0.02))
    finding = Finding(id="x", severity="blocks", sentence="", evidence="", forbids=("as good",))
    assert hold_back(found, [finding]).smallest_margin_as_good is None
    assert hold_back(found, []).smallest_margin_as_good == found.smallest_margin_as_good


def test_the_page_marks_the_declared_margin_and_says_what_headroom_adds(tmp_path: Path) -> None:
    report = build_report(write_study(tmp_path / "study"))
    page = to_html(report, ())
    assert page.count("declared margin") >= 1
    assert "within 1.25 <i>m</i>" in page
    for verdict in report.verdicts:
        assert (line := smallest_margin(verdict)) is None or line in page
