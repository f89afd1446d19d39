"""The verdict: every rule of the protocol, on planted studies whose truth is known."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from tunewise.desk.metrics.metrics import METRICS, compute
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.report.sentences import has_needs, sentence
from tunewise.desk.statistics.comparison import ArmScores, decide
from tunewise.desk.statistics.intervals import two_way_interval
from tunewise.desk.statistics.paired import PairedRuns
from tunewise.desk.statistics.verdict import Levels, MarginTest, RateSearch, Verdict, judge
from tunewise.errors import SpecError
from tunewise.spec import Margin

TWO_PARTS = Margin(absolute=0.02, share_of_gain=0.05)


def text_run(nll_per_token: np.ndarray, tokens: np.ndarray) -> Scores:
    examples = np.array([f"row-{i:05d}" for i in range(len(tokens))], dtype=object)
    none = np.full(len(tokens), -1)
    return Scores(examples, examples, nll_per_token * tokens, tokens, tokens, none, none, np.zeros((len(tokens), 0)))


def text_study(  # noqa: PLR0913 - a planted truth has many parts
    seed: int, harm: float, gain: float = 1.0, num_seeds: int = 5, num_units: int = 200, noise: float = 0.02
) -> ArmScores:
    """Runs in which full gains `gain` nats per token over the base, and the arm `harm` less."""
    rng = np.random.default_rng(seed)
    tokens = np.full(num_units, 8)
    hard = rng.gamma(4, 0.5, num_units) + gain

    def run(level: float) -> Scores:
        return text_run(hard + level + rng.normal(0, noise / 10) + rng.normal(0, noise, num_units), tokens)

    return ArmScores(
        arm=tuple(run(harm - gain) for _ in range(num_seeds)),
        full=tuple(run(-gain) for _ in range(num_seeds)),
        base=(text_run(hard, tokens),),
    )


def class_study(seed: int, arm: float, full: float, num_units: int = 2000, num_seeds: int = 3) -> ArmScores:
    """Classifiers that are right with these probabilities, on mostly the same rows; the reference has a half."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num_units)
    examples = np.array([f"row-{i:05d}" for i in range(num_units)], dtype=object)
    hard, ones = rng.random(num_units), np.ones(num_units, dtype=int)

    def run(skill: float) -> Scores:
        predictions = np.where(hard + rng.normal(0, 0.002, num_units) < skill, labels, 1 - labels)
        return Scores(examples, examples, -np.log(hard), ones, 0 * ones, labels, predictions, np.zeros((num_units, 2)))

    runs = {name: tuple(run(skill) for _ in range(num_seeds)) for name, skill in (("arm", arm), ("full", full))}
    return ArmScores(**runs, base=tuple(run(0.5) for _ in range(num_seeds)))


def judged(low: float, high: float, margin: float) -> tuple[str, str | None]:
    return tuple(judge(low, high, [MarginTest(low - margin, high - margin, low + margin)]))


# --- the words


EQUIVALENT, MEASURABLY = "equivalent", "measurably worse, within the margin"
HOW_MUCH = "worse than full, by how much is open"


@pytest.mark.parametrize(
    ("low", "high", "outcome", "remark"),
    [  # the margin is 2; every place of L and U among -2, 0 and 2, and every tie
        (-4, -3, "better", None),
        (-4, -2, "better", None),
        (-4, -1, "better", None),
        (-2, -1, "better", None),
        (-1.5, -1, "better", EQUIVALENT),
        (-4, 0, "as good", None),
        (-2, 0, "as good", None),
        (-1, 0, "as good", EQUIVALENT),
        (-4, 1, "as good", None),
        (-2, 1, "as good", None),
        (-1, 1, "as good", EQUIVALENT),
        (0, 1, "as good", EQUIVALENT),
        (1, 1.5, "as good", MEASURABLY),
        (-4, 2, "undecided", None),
        (-1, 2, "undecided", None),
        (0, 2, "undecided", None),
        (1, 2, "undecided", HOW_MUCH),
        (-4, 3, "undecided", None),
        (-2, 3, "undecided", None),
        (-1, 3, "undecided", None),
        (0, 3, "undecided", None),
        (1, 3, "undecided", HOW_MUCH),
        (2, 3, "undecided", HOW_MUCH),
        (2.5, 3, "worse", None),
    ],
)
def test_every_ordering_of_zero_margin_and_interval_has_its_word(low: float, high: float, outcome: str, remark: str):
    assert judged(low, high, 2) == (outcome, remark)


def test_both_parts_of_a_margin_must_pass_for_as_good_and_one_exceeded_is_enough_for_worse():
    passes, fails, exceeded = MarginTest(-2, -1, 1), MarginTest(-1, 1, 1), MarginTest(1, 2, 1)
    assert judge(-1, 1, [passes, passes]).outcome == "as good"
    assert judge(-1, 1, [passes, fails]).outcome == judge(-1, 1, [fails, passes]).outcome == "undecided"
    too_good_for_one = MarginTest(-3, -2, -1)
    assert judge(-1, 1, [passes, passes]).remark == EQUIVALENT
    assert judge(-1, 1, [passes, too_good_for_one]).remark is None
    assert judge(1, 3, [passes, exceeded]).outcome == judge(1, 3, [exceeded, passes]).outcome == "worse"


@pytest.mark.parametrize(
    ("harm", "outcome", "remark"),
    [(-0.05, "better", None), (0.0, "as good", EQUIVALENT), (0.01, "as good", MEASURABLY), (0.05, "worse", None)],
)
def test_a_planted_loss_gets_its_word(harm: float, outcome: str, remark: str | None):
    found = decide("lora", text_study(1, harm), "nll", Margin(absolute=0.02))
    assert (found.outcome, found.remark, found.reason, found.lean) == (outcome, remark, None, None)
    assert found.difference == pytest.approx(harm, abs=0.005)


def test_a_study_too_small_for_its_margin_is_undecided_because_of_its_interval():
    found = decide("lora", text_study(2, 0.0, noise=0.4), "nll", Margin(absolute=0.02))
    assert (found.outcome, found.reason) == ("undecided", "interval")
    assert found.low < 0.02 < found.high


@pytest.mark.parametrize(("arm", "outcome"), [(0.93, "better"), (0.9, "as good"), (0.86, "worse")])
def test_of_a_score_higher_is_better_and_the_difference_keeps_its_sign(arm: float, outcome: str):
    found = decide("lora", class_study(1, arm, 0.9), "accuracy", Margin(absolute=0.01))
    assert found.outcome == outcome
    assert found.difference == pytest.approx(arm - 0.9, abs=0.01)
    assert found.low < found.difference < found.high
    assert found.gain.low > 0.3


def test_the_difference_is_the_one_that_a_reader_recomputes_from_the_scores():
    runs = class_study(2, 0.9, 0.92)
    for metric in ("accuracy", "macro_f1", "nll"):
        found = decide("lora", runs, metric, Margin(absolute=0.01))
        by_arm = [np.mean([compute(metric, run) for run in of_arm]) for of_arm in (runs.arm, runs.full)]
        assert found.difference == pytest.approx(by_arm[0] - by_arm[1], abs=1e-12)


@pytest.mark.parametrize("metric", ["nll", "accuracy"])
def test_swapping_the_arms_flips_the_interval_and_turns_better_into_worse(metric: str):
    runs = text_study(3, 0.05) if metric == "nll" else class_study(3, 0.85, 0.9)
    there = decide("a", runs, metric, Margin(absolute=0.01))
    back = decide("b", replace(runs, arm=runs.full, full=runs.arm), metric, Margin(absolute=0.01))
    assert (there.outcome, back.outcome) == ("worse", "better")
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))


# --- what withholds a verdict


def test_fewer_than_three_seeds_only_lean():
    for harm, lean in ((-0.05, "leans better"), (0.0, "no lean"), (0.05, "leans worse")):
        for num_seeds in (1, 2):
            runs = text_study(3, harm, num_seeds=num_seeds, noise=0.002 if harm else 0.02)
            found = decide("lora", runs, "nll", Margin(absolute=0.02))
            assert (found.outcome, found.reason, found.remark, found.lean) == ("undecided", "seeds", None, lean)
            assert (found.low is None) == (num_seeds == 1)


def test_fewer_than_ten_units_get_no_word_however_clear_the_difference():
    assert decide("lora", text_study(5, 0.5, num_units=9), "nll", Margin(absolute=0.02)).reason == "units"
    assert decide("lora", text_study(5, 0.5, num_units=10), "nll", Margin(absolute=0.02)).outcome == "worse"


def test_equal_differences_are_no_certainty():
    runs = text_study(6, 0.0)
    found = decide("lora", replace(runs, arm=runs.full), "nll", Margin(absolute=0.02))
    assert (found.outcome, found.reason, found.low, found.high) == ("undecided", "identical", None, None)


@pytest.mark.parametrize("harm", [-0.1, 0.0, 0.1])
def test_an_optimum_that_is_not_bracketed_forbids_all_three_words(harm: float):
    runs = text_study(7, harm)
    assert decide("lora", runs, "nll", Margin(absolute=0.02)).outcome != "undecided"
    found = decide("lora", runs, "nll", Margin(absolute=0.02), search=RateSearch(unbracketed=("full",)))
    assert (found.outcome, found.reason, found.remark) == ("undecided", "optimum not bracketed", None)


def test_a_share_of_nothing_is_no_margin_but_an_absolute_margin_still_is():
    runs = text_study(9, 0.0, gain=0.0)
    found = decide("lora", runs, "nll", TWO_PARTS)
    assert (found.outcome, found.reason) == ("undecided", "full gains nothing measurable here")
    assert found.gain_kept is None
    assert decide("lora", runs, "nll", Margin(absolute=0.02)).outcome == "as good"


def with_tail(runs: ArmScores, sign: float) -> ArmScores:
    """The runs with a quality loss (or gain) in three units of the arm."""
    by_token = np.zeros(len(runs.full[0].units))
    by_token[[7, 77, 277]] = 0.5, 0.7, 0.6
    return replace(runs, arm=tuple(replace(run, nll=run.nll + sign * by_token * run.num_tokens) for run in runs.arm))


def test_harm_that_sits_in_a_few_units_withholds_as_good_and_those_units_are_named():
    runs = text_study(9, -0.001, num_units=400)
    margin = Margin(absolute=0.012)
    assert decide("lora", runs, "nll", margin).outcome == "as good"
    found = decide("lora", with_tail(runs, 1), "nll", margin)
    assert (found.outcome, found.reason, found.remark) == ("undecided", "skew", None)
    assert found.high > 0.012, "the printed interval is the one that decides"
    assert found.harmful_units[:3] == ("row-00077", "row-00277", "row-00007")
    assert len(found.harmful_units) == 10
    assert not found.beneficial_units
    assert "comes from too few test groups (row-00077" in sentence(found)
    assert decide("lora", with_tail(runs, 1), "nll", Margin(absolute=0.02)).outcome == "as good", "a wider one holds"


def test_the_same_tail_withholds_better_too_because_it_rests_on_the_same_end():
    runs = text_study(9, -0.018, num_units=400)
    assert decide("lora", runs, "nll", Margin(absolute=0.0001)).outcome == "better"
    found = decide("lora", with_tail(runs, 1), "nll", Margin(absolute=0.0001))
    assert (found.outcome, found.reason) == ("undecided", "skew")
    assert found.harmful_units[0] == "row-00077"


def test_gains_that_sit_in_a_few_units_withhold_worse_and_those_units_are_named():
    runs = text_study(9, 0.018, num_units=400)
    margin = Margin(absolute=0.005)
    assert decide("lora", runs, "nll", margin).outcome == "worse"
    found = decide("lora", with_tail(runs, -1), "nll", margin)
    assert (found.outcome, found.reason) == ("undecided", "skew")
    assert found.beneficial_units[0] == "row-00077"
    assert not found.harmful_units
    assert "gain too much" in sentence(found)


def test_the_same_runs_under_two_names_are_not_as_good_however_many_rows_agree():
    """Pseudo-units make a table of equal accuracies unequal, so the rows themselves are asked."""
    runs = class_study(1, 0.9, 0.9, num_units=3000)
    found = decide("lora", replace(runs, arm=runs.full), "accuracy", Margin(absolute=0.01))
    assert (found.outcome, found.reason) == ("undecided", "identical")
    nlls = tuple(replace(run, nll=run.nll * (1 + 1e-3)) for run in runs.full)  # others that answer alike
    assert decide("lora", replace(runs, arm=nlls), "accuracy", Margin(absolute=0.01)).outcome == "as good"


def test_units_of_unequal_size_count_as_the_fewer_equal_ones_that_weigh_as_much():
    runs = text_study(9, -0.001, num_units=60)
    tokens = np.where(np.arange(60) < 6, 800, 8)

    def longer(run: Scores) -> Scores:
        return replace(run, nll=run.nll / run.num_tokens * tokens, num_tokens=tokens)

    long = ArmScores(*(tuple(longer(run) for run in of) for of in (runs.arm, runs.full, runs.base)))
    found = decide("lora", long, "nll", Margin(absolute=0.1))
    assert found.num_units == 60
    assert found.effective_units == pytest.approx((6 * 800 + 54 * 8) ** 2 / (6 * 800**2 + 54 * 8**2))
    assert (found.outcome, found.reason) == ("undecided", "units")
    assert decide("lora", runs, "nll", Margin(absolute=0.1)).effective_units == pytest.approx(60)


@pytest.mark.parametrize(
    ("harm", "of_full", "of_arm", "outcome"),
    [
        (-0.05, 0.06, None, "undecided"),  # with it taken off, the arm is no better
        (-0.05, 0.0051, None, "better"),
        (0.0, 0.021, None, "undecided"),
        (0.0, 0.006, None, "as good"),
        (0.05, 0.5, None, "worse"),  # full's own makes it only worse
        (-0.05, None, 0.5, "better"),
        (0.0, None, 0.5, "as good"),
        (0.05, None, 0.031, "undecided"),
        (0.05, None, 0.006, "worse"),
        (0.5, None, 0.2, "worse"),
        (0.05, None, None, "worse"),
    ],
)
def test_headroom_above_a_quarter_of_the_margin_forbids_the_words_that_it_could_turn(
    harm: float, of_full: float | None, of_arm: float | None, outcome: str
):
    search = RateSearch(headroom_of_full=of_full, headroom_of_arm=of_arm)
    found = decide("lora", text_study(7, harm), "nll", Margin(absolute=0.02), search)
    assert (found.outcome, found.reason) == (outcome, "headroom" if outcome == "undecided" else None)
    assert (found.headroom_of_full, found.headroom_of_arm) == (of_full, of_arm)


def test_headroom_up_to_a_quarter_of_the_margin_counts_against_nothing():
    runs = text_study(7, 0.0)
    high = decide("lora", runs, "nll", Margin(absolute=0.02)).high
    margin = Margin(absolute=high + 1e-6)  # the arm is as good by a hair
    quarter = margin.absolute / 4
    assert decide("lora", runs, "nll", margin, RateSearch(headroom_of_full=0.999 * quarter)).outcome == "as good"
    assert decide("lora", runs, "nll", margin, RateSearch(headroom_of_full=1.001 * quarter)).reason == "headroom"


def test_headroom_is_held_against_the_smaller_part_of_the_margin():
    runs = text_study(7, 0.0, gain=0.2)  # 5% of the gain is 0.01
    assert decide("lora", runs, "nll", Margin(absolute=0.02), RateSearch(headroom_of_full=0.0095)).outcome == "as good"
    assert decide("lora", runs, "nll", TWO_PARTS, RateSearch(headroom_of_full=0.0095)).reason == "headroom"


@pytest.mark.parametrize("harm", [-0.05, 0.0, 0.015, 0.05])
@pytest.mark.parametrize(("of_full", "of_arm"), [(0.03, None), (None, 0.03), (0.02, 0.02)])
def test_a_word_that_is_said_beside_headroom_is_said_of_runs_that_have_used_it_up(harm, of_full, of_arm):
    said = decide("lora", text_study(7, harm), "nll", Margin(absolute=0.02), RateSearch((), of_arm, of_full)).outcome
    used = {"better": of_full or 0.0, "as good": of_full or 0.0, "worse": -(of_arm or 0.0), "undecided": 0.0}[said]
    again = decide("lora", text_study(7, harm + used), "nll", Margin(absolute=0.02)).outcome
    assert said == "undecided" or again == said


def test_a_tail_of_units_towards_benefit_caps_nothing():
    runs = text_study(9, 0.004, num_units=400)
    by_token = np.zeros(400)
    by_token[[7, 77, 277]] = -0.5
    tail = tuple(replace(run, nll=run.nll + by_token * run.num_tokens) for run in runs.arm)
    assert decide("lora", replace(runs, arm=tail), "nll", Margin(absolute=0.02)).outcome == "as good"


# --- the margin


@pytest.mark.parametrize(
    ("gain", "outcome"),
    [(4.0, "as good"), (0.4, "undecided"), (0.1, "worse")],  # 5% are 0.2, 0.02 and 0.005; the loss is 0.02
)
def test_a_share_of_the_gain_is_held_against_the_harm(gain: float, outcome: str):
    assert decide("lora", text_study(10, 0.02, gain), "nll", Margin(share_of_gain=0.05)).outcome == outcome


def test_the_smaller_part_of_a_margin_binds_whichever_it_is():
    small_share, small_absolute = text_study(11, 0.012, gain=0.1), text_study(11, 0.04, gain=4.0)
    for runs, lone in ((small_share, Margin(absolute=0.02)), (small_absolute, Margin(share_of_gain=0.05))):
        assert decide("lora", runs, "nll", lone).outcome == "as good"
        assert decide("lora", runs, "nll", TWO_PARTS).outcome == "worse"


def test_a_share_of_the_gain_is_one_contrast_so_that_the_error_of_the_gain_counts():
    runs = text_study(12, 0.0, gain=1.0)
    rng = np.random.default_rng(0)
    uneven = rng.normal(0, 1, 200)  # the gain differs widely between units
    moved = {
        name: tuple(replace(run, nll=run.nll - uneven * run.num_tokens) for run in getattr(runs, name))
        for name in ("arm", "full")
    }
    found = decide("lora", replace(runs, **moved), "nll", Margin(share_of_gain=0.05))
    paired = PairedRuns(METRICS["nll"], {"a": moved["arm"], "f": moved["full"], "b": runs.base})
    tables = {name: paired.contrast(w).values_SN for name, w in (("h", {"a": 1, "f": -1}), ("g", {"b": 1, "f": -1}))}
    expected = two_way_interval(tables["h"] - 0.05 * tables["g"])
    assert (found.share_excess.low, found.share_excess.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    as_constant = (found.high - found.low) / 2
    assert (found.share_excess.high - found.share_excess.low) / 2 > 1.5 * as_constant


def test_two_parts_halve_the_error_of_worse_in_each_and_leave_as_good_as_it_is():
    runs = text_study(12, 0.05, gain=1.0)
    found = decide("lora", runs, "nll", Margin(absolute=0.02))
    just_below, just_above = found.low - 1e-5, found.high + 1e-5
    assert decide("lora", runs, "nll", Margin(absolute=just_below)).outcome == "worse"
    with_slack_share = decide("lora", runs, "nll", Margin(absolute=just_below, share_of_gain=0.9))
    assert (with_slack_share.outcome, with_slack_share.remark) == ("undecided", HOW_MUCH)
    assert decide("lora", runs, "nll", Margin(absolute=just_above, share_of_gain=0.9)).outcome == "as good"


@pytest.mark.slow
def test_at_the_edge_of_both_parts_each_word_is_wrong_in_few_studies():
    wrong = dict.fromkeys(["as good", "worse"], 0)
    for seed in range(300):
        outcome = decide("lora", text_study(seed, 0.02, gain=0.4, num_units=60, noise=0.05), "nll", TWO_PARTS).outcome
        if outcome in wrong:
            wrong[outcome] += 1
    # 2.5% of 300 and three Monte Carlo errors
    assert wrong["as good"] <= 15
    assert wrong["worse"] <= 15


def test_gain_kept_and_the_perplexity_ratio_speak_of_the_same_runs():
    runs = text_study(13, 0.1, gain=1.0)
    found = decide("lora", runs, "nll", TWO_PARTS)
    assert found.gain.estimate == pytest.approx(1.0, abs=0.01)
    assert found.gain_kept.estimate == pytest.approx(1 - found.difference / found.gain.estimate)
    assert found.gain_kept.low < 0.9 < found.gain_kept.high
    ratios = [compute("perplexity", run) for run in (runs.arm[0], runs.full[0])]
    assert found.perplexity_ratio.estimate == pytest.approx(ratios[0] / ratios[1], rel=0.01)
    assert (found.perplexity_ratio.low, found.perplexity_ratio.high) == (math.exp(found.low), math.exp(found.high))
    assert decide("lora", class_study(4, 0.9, 0.9), "accuracy", Margin(absolute=0.01)).perplexity_ratio is None


def test_a_wider_confidence_makes_a_wider_interval():
    runs = text_study(14, 0.0)
    wide = decide("lora", runs, "nll", TWO_PARTS, levels=Levels(0.005, 0.005, 0.005))
    narrow = decide("lora", runs, "nll", TWO_PARTS)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_an_unknown_metric_names_the_near_miss():
    with pytest.raises(SpecError, match="Did you mean 'nll'"):
        decide("lora", text_study(1, 0.0), "nlll", TWO_PARTS)


def test_every_word_is_tested_at_its_own_level_and_the_interval_is_at_the_level_of_the_word():
    runs = text_study(14, 0.0)
    plain = decide("lora", runs, "nll", Margin(absolute=0.02))
    between = decide("lora", runs, "nll", Margin(absolute=0.02), levels=Levels(1e-9, 0.01, 1e-9))
    assert (plain.confidence, between.confidence) == (0.95, 0.98)
    assert between.outcome == "as good"
    just_above = Margin(absolute=plain.high + 1e-6)
    assert decide("lora", runs, "nll", just_above).outcome == "as good"
    strict = decide("lora", runs, "nll", just_above, levels=Levels(0.025, 0.01, 0.005))
    assert (strict.outcome, strict.confidence) == ("undecided", 0.99)
    assert strict.low < plain.low < plain.high < strict.high


def test_what_would_decide_is_said_where_more_data_is_what_is_missing_and_nowhere_else():
    open_study = decide("lora", text_study(2, 0.0, noise=0.1), "nll", Margin(absolute=0.02))
    assert (open_study.outcome, open_study.reason) == ("undecided", "interval")
    assert open_study.would_decide is not None
    two_seeds = decide("lora", text_study(3, 0.0, num_seeds=2), "nll", Margin(absolute=0.02))
    assert two_seeds.would_decide is not None
    for decided in (
        decide("lora", text_study(1, 0.0), "nll", Margin(absolute=0.02)),
        decide("lora", text_study(1, 0.0), "nll", Margin(absolute=0.02), RateSearch(unbracketed=("full",))),
        decide("lora", text_study(1, 0.0, num_units=9), "nll", Margin(absolute=0.02)),
    ):
        assert decided.would_decide is None


def test_the_more_demanding_part_of_a_margin_says_what_would_decide():
    runs = text_study(2, 0.0, gain=0.2, noise=0.1)  # 5% of the gain is 0.01, half of the absolute part
    alone = decide("lora", runs, "nll", Margin(absolute=0.02)).would_decide
    both = decide("lora", runs, "nll", TWO_PARTS).would_decide
    assert (both.kind, alone.kind) == ("seeds", "seeds")
    assert both.likely > 2 * alone.likely


# --- in words and on disk


def test_the_sentence_names_arm_metric_margin_interval_seeds_and_units_for_every_outcome():
    studies = [
        decide("lora-r8", text_study(1, harm), "nll", TWO_PARTS) for harm in (-0.05, 0.0, 0.01, 0.05, 0.0195)
    ] + [
        decide("lora-r8", text_study(1, 0.0), "nll", TWO_PARTS, search=RateSearch(unbracketed=("full", "lora-r8"))),
        decide("lora-r8", text_study(1, 0.0, num_seeds=2), "nll", TWO_PARTS),
        decide("lora-r8", text_study(1, 0.0, num_seeds=1), "nll", TWO_PARTS),
        decide("lora-r8", text_study(1, 0.0, num_units=9), "nll", TWO_PARTS),
        decide("lora-r8", text_study(9, 0.0, gain=0.0), "nll", TWO_PARTS),
        decide("lora-r8", replace(text_study(1, 0.0), arm=text_study(1, 0.0).full), "nll", TWO_PARTS),
    ]
    assert {v.outcome for v in studies} == {"better", "as good", "worse", "undecided"}
    for verdict in studies:
        text = sentence(verdict)
        for part in (
            "lora-r8",
            "full",
            "NLL",
            "0.02 nats per supervised token or 5% of full's gain, whichever is smaller",
        ):
            assert part in text
        assert f"{verdict.num_seeds} seed" in text
        rows = f"{verdict.num_rows} test rows"
        if verdict.num_rows != verdict.num_units:
            rows += f" in {verdict.num_units} groups"
        assert rows in text
        assert ("95% CI" in text) == (verdict.low is not None)
        assert "None" not in text
        assert text.endswith(".")
        assert "\n" not in text


def test_accuracies_are_spoken_of_in_percentage_points():
    text = sentence(decide("lora", class_study(1, 0.86, 0.9), "accuracy", Margin(absolute=0.01)))
    assert text.startswith("Worse: lora is worse than full fine-tuning by ")
    assert "percentage points (accuracy; 95% CI " in text
    assert "your margin of 1 percentage point." in text


def test_an_arm_shown_to_be_worse_is_told_so_first_and_not_what_would_show_it_equal():
    found = decide("lora-r8", text_study(1, 0.0195), "nll", TWO_PARTS)
    assert found.remark == "worse than full, by how much is open"
    assert found.would_decide is not None
    assert not has_needs(found)
    text = sentence(found)
    assert re.match(
        r"Inconclusive: lora-r8 is worse than full fine-tuning by 0\.0\d+ nats per supervised token "
        r"\(NLL; 95% CI 0\.\d+ to 0\.\d+\)\. We cannot tell whether that exceeds your margin \(",
        text,
    )
    assert not re.search(r"[+−]\d", text)


def test_a_verdict_survives_json():
    found = decide("lora", text_study(1, 0.0), "nll", TWO_PARTS)
    assert Verdict.model_validate_json(found.model_dump_json()) == found
