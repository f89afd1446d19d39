"""Many arms against full: Holm's levels, the intervals at them, and the recommendation."""

import itertools

import numpy as np
import pytest
from test_verdict import text_study

from tunewise.desk.report.sentences import sentence
from tunewise.desk.statistics.comparison import ArmScores, Comparison, decide
from tunewise.desk.statistics.look import EARLY_ERROR
from tunewise.desk.statistics.multiplicity import decide_together, holm_levels, recommended
from tunewise.desk.statistics.verdict import RateSearch, Verdict
from tunewise.spec import Margin

MARGIN = Margin(absolute=0.02)


def compare(harms: list[float], noise: float = 0.02, **searches: RateSearch) -> tuple[Verdict, ...]:
    studies = {f"arm{i}": text_study(i, harm, noise=noise) for i, harm in enumerate(harms)}
    return decide_together(
        [Comparison(arm, runs, "nll", MARGIN, searches.get(arm, RateSearch())) for arm, runs in studies.items()]
    )


def rejected_by_holm(p_values: tuple[float, ...], level: float) -> set[int]:
    """Holm 1979 as written: step down from the smallest, stop at the first that is not significant."""
    out: set[int] = set()
    for rank, arm in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[arm] > level / (len(p_values) - rank):
            break
        out.add(arm)
    return out


def test_an_arm_is_significant_at_its_level_exactly_where_holm_rejects_it():
    for p_values in itertools.product([0.001, 0.008, 0.01, 0.012, 0.02, 0.03, 1.0], repeat=3):
        levels = holm_levels(np.array(p_values))
        assert {i for i in range(3) if p_values[i] <= levels[i]} == rejected_by_holm(p_values, 0.025), p_values


def test_the_levels_of_three_arms_are_those_of_the_textbook():
    assert holm_levels(np.array([0.02, 0.001, 0.01])) == pytest.approx([0.025, 0.025 / 3, 0.0125])
    # the first already fails, so that none is tested at more than a third
    assert holm_levels(np.array([0.02, 0.01, 0.011])) == pytest.approx([0.025 / 3] * 3)
    assert holm_levels(np.array([0.5])) == pytest.approx([0.025])


def test_many_studies_at_once_get_the_levels_of_each():
    p_values = np.random.default_rng(0).uniform(0, 0.05, (50, 4))
    assert holm_levels(p_values) == pytest.approx(np.array([holm_levels(of_study) for of_study in p_values]))


def test_of_six_equally_harmful_arms_at_the_margin_any_is_called_as_good_in_few_studies():
    rng = np.random.default_rng(1)
    p_values = rng.uniform(0, 1, (20_000, 6))
    wrong = (p_values <= holm_levels(p_values)).any(axis=1).mean()
    assert wrong == pytest.approx(0.025, abs=0.0045)  # 4 Monte Carlo errors
    assert (p_values <= 0.025).any(axis=1).mean() > 0.1


def test_one_arm_by_itself_is_decided_as_without_holm():
    runs = text_study(0, 0.0)
    assert compare([0.0]) == (decide("arm0", runs, "nll", MARGIN),)


def test_the_interval_of_every_arm_is_at_its_holm_level_and_agrees_with_its_word():
    verdicts = compare([-0.05, 0.0, 0.05, 0.0195, 0.019, 0.0185], noise=0.03)
    assert {v.outcome for v in verdicts} == {"better", "as good", "worse", "undecided"}
    for verdict in verdicts:
        assert verdict.num_compared == 6
        assert verdict.low < verdict.high
        level = {"better": verdict.high < 0, "as good": verdict.high < 0.02, "worse": verdict.low > 0.02}
        if verdict.outcome != "undecided":
            assert level[verdict.outcome]
        else:
            assert not any(level.values())
            assert verdict.confidence == pytest.approx(0.99)  # second of six for "better" and "worse"
            assert "Holm-adjusted for 6 comparisons" in sentence(verdict)


def test_each_word_has_an_error_of_its_own():
    verdicts = {v.arm: v for v in compare([-0.05, 0.05])}
    # the only arm that is better does not take from the only one that is worse: each is first of two
    assert (verdicts["arm0"].outcome, verdicts["arm1"].outcome) == ("better", "worse")
    assert verdicts["arm0"].confidence == verdicts["arm1"].confidence == 0.975


def borderline(confidence: float) -> tuple[ArmScores, Margin]:
    """A study and a margin that it clears at 95 % only just."""
    runs = text_study(5, 0.0)
    return runs, Margin(absolute=decide("arm", runs, "nll", MARGIN).high + 1e-6)


def test_an_arm_that_alone_is_just_as_good_is_undecided_beside_an_arm_that_is_not():
    runs, margin = borderline(0.95)
    alone = Comparison("near", runs, "nll", margin, RateSearch())
    hopeless = Comparison("far", text_study(6, 0.5), "nll", margin, RateSearch())
    good = Comparison("good", text_study(6, -0.5), "nll", margin, RateSearch())
    assert decide_together([alone])[0].outcome == "as good"
    assert decide_together([alone, hopeless])[0].outcome == "undecided"
    assert decide_together([alone, good])[0].outcome == "as good"


def test_an_arm_that_may_not_have_a_word_gives_no_level_to_the_others():
    runs, margin = borderline(0.95)
    alone = Comparison("near", runs, "nll", margin, RateSearch())
    for search in (RateSearch(unbracketed=("full",)), RateSearch(headroom_of_full=1.0)):
        good = Comparison("good", text_study(6, -0.5), "nll", margin, search)
        found = decide_together([alone, good])
        assert [v.outcome for v in found] == ["undecided", "undecided"]


def test_an_early_look_asks_for_more_of_every_word():
    runs, margin = borderline(0.95)
    alone = Comparison("near", runs, "nll", margin, RateSearch())
    (early,), (last,) = decide_together([alone], EARLY_ERROR), decide_together([alone])
    assert (early.outcome, last.outcome) == ("undecided", "as good")
    assert (early.confidence, last.confidence) == (0.99, 0.95)
    assert early.low < last.low < last.high < early.high
    good = Comparison("good", text_study(6, -0.5), "nll", margin, RateSearch())
    assert [v.confidence for v in decide_together([alone, good], EARLY_ERROR)] == [0.995, 0.995]


# --- the recommendation


def test_the_cheapest_arm_that_is_as_good_or_better_is_recommended():
    verdicts = compare([0.0, -0.05, 0.05])
    assert [v.outcome for v in verdicts] == ["as good", "better", "worse"]
    assert recommended(verdicts, {"arm0": 200, "arm1": 300, "arm2": 1}) == "arm0"
    assert recommended(verdicts, {"arm0": 200, "arm1": 100, "arm2": 1}) == "arm1"
    assert recommended(verdicts, {"arm0": None, "arm1": 300, "arm2": 1}) == "arm1"
    assert recommended(verdicts, {"arm0": 200, "arm1": 200, "arm2": 1}) == "arm0"
    assert recommended(verdicts[2:], {"arm2": 1}) is None
