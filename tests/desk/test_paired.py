"""Intervals over seeds and units: against hand counts, against other formulas, and by simulation."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tunewise.desk.metrics.metrics import METRICS, compute
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.statistics.gain import gain_kept
from tunewise.desk.statistics.intervals import two_way_interval, unit_interval
from tunewise.desk.statistics.paired import PairedRuns, linearise, mean_interval
from tunewise.desk.statistics.power import chance_of_negative
from tunewise.desk.statistics.spread import table_spread
from tunewise.errors import StudyError

SHARES = [(0, 0, 1), (0.1, 0.6, 0.3), (0.3, 0.3, 0.4), (0.5, 0.4, 0.1), (0.7, 0.2, 0.1), (0.9, 0.05, 0.05)]


def scores(  # one run; rows are their own units unless told otherwise
    nll: Sequence[float] = (),
    tokens: Sequence[int] = (),
    labels: Sequence[int] = (),
    predictions: Sequence[int] = (),
    units: Sequence[str] = (),
) -> Scores:
    num_rows = max(len(nll), len(labels))
    examples = np.array([f"row-{i:05d}" for i in range(num_rows)], dtype=object)
    return Scores(
        examples=examples,
        units=np.array(list(units), dtype=object) if units else examples,
        nll=np.array(nll, dtype=np.float64) if len(nll) else np.ones(num_rows),
        num_tokens=np.array(tokens, dtype=np.int64) if len(tokens) else np.ones(num_rows, dtype=np.int64),
        num_bytes=np.ones(num_rows, dtype=np.int64),
        labels=np.array(labels, dtype=np.int64) if len(labels) else np.full(num_rows, -1),
        predictions=np.array(predictions, dtype=np.int64) if len(predictions) else np.full(num_rows, -1),
        class_log_probabilities=np.zeros((num_rows, 0)),
    )


def text_study(seed: int, num_seeds: int = 4, num_rows: int = 60) -> dict[str, list[Scores]]:
    """A base, and two arms whose NLL is lower; rows of unequal length in units of unequal size."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 50, num_rows)
    units = [f"u{rng.integers(0, num_rows // 2)}" for _ in range(num_rows)]
    hard = rng.gamma(4.0, 0.5, num_rows)

    def run(gain: float) -> Scores:
        own_gain = gain + rng.normal(0, 0.02) + rng.normal(0, 0.1, num_rows)
        return scores(nll=(hard - own_gain) * tokens + 5, tokens=tokens, units=units)

    return {
        "arm": [run(0.55) for _ in range(num_seeds)],
        "full": [run(0.6) for _ in range(num_seeds)],
        "base": [scores(nll=hard * tokens + 5, tokens=tokens, units=units)],
    }


def class_study(seed: int, num_seeds: int = 4, num_rows: int = 80) -> dict[str, list[Scores]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num_rows)
    hard = rng.random(num_rows)

    def run(skill: float) -> Scores:
        right = hard + rng.normal(0, 0.1, num_rows) < skill
        return scores(labels=labels, predictions=np.where(right, labels, (labels + 1) % 3))

    return {
        "arm": [run(0.85) for _ in range(num_seeds)],
        "full": [run(0.88) for _ in range(num_seeds)],
        "base": [run(0.4)],
    }


# --- the two-way interval


def two_way_by_loops(table: list[list[float]], level: float) -> tuple[float, float, float]:
    """Low, high and degrees of freedom, counted cell by cell."""
    num_seeds, num_units = len(table), len(table[0])
    mean = sum(map(sum, table)) / (num_seeds * num_units)
    by_seed = [sum(row) / num_units for row in table]
    by_unit = [sum(row[i] for row in table) / num_seeds for i in range(num_units)]
    ms_seed = num_units * sum((m - mean) ** 2 for m in by_seed) / (num_seeds - 1)
    ms_unit = num_seeds * sum((m - mean) ** 2 for m in by_unit) / (num_units - 1)
    ms_rest = 0.0
    for s in range(num_seeds):
        for i in range(num_units):
            ms_rest += (table[s][i] - by_seed[s] - by_unit[i] + mean) ** 2 / ((num_seeds - 1) * (num_units - 1))
    a, b = max(ms_seed, ms_rest), max(ms_unit, ms_rest)
    parts = a**2 / (num_seeds - 1) + b**2 / (num_units - 1)
    parts += ms_rest**2 / ((num_seeds - 1) * (num_units - 1))
    freedom = (a + b - ms_rest) ** 2 / parts
    if a <= ms_rest + 1e-12 * b:
        freedom = min(freedom, 4 * (num_seeds - 1))
    elif ms_rest > 1e-12 * (a + b):
        freedom = min(freedom, 4 * (num_seeds - 1) * (a / ms_rest) ** 2)
    error = math.sqrt((a + b - ms_rest) / (num_seeds * num_units))
    freedom = max(freedom, min(num_seeds, num_units) - 1)
    quantile = stats.t.ppf((1 + level) / 2, freedom)
    below, above = (
        (quantile + max(tail / error**3, 0)) * error for tail in tails_by_loops(table, by_seed, by_unit, mean, level)
    )
    skewness = float(stats.skew(by_unit)) if max(by_unit) - min(by_unit) > 1e-9 else 0.0
    stretch = min(max(70 * skewness**2 / num_units, 1), 2)
    below, above = (below, stretch * above) if skewness > 0 else (stretch * below, above)
    return mean - below, mean + above, freedom


def tails_by_loops(
    table: list[list[float]], by_seed: list[float], by_unit: list[float], mean: float, level: float
) -> tuple[float, float]:
    """Of both ends: c / 2 + (3 c - k) (z^2 - 1) / 6.

    k is the third cumulant of the mean, c its covariance with its variance.
    """
    num_seeds, num_units = len(table), len(table[0])
    units = sum((m - mean) ** 3 for m in by_unit) / (num_units * max((num_units - 1) * (num_units - 2), 1))
    both = 0.0
    for s in range(num_seeds):
        for i in range(num_units):
            rest = table[s][i] - by_seed[s] - by_unit[i] + mean
            both += (by_seed[s] - mean) * (by_unit[i] - mean) * rest
    both /= (num_seeds - 1) * (num_units - 1) * num_seeds * num_units
    k, c = units + 6 * both, units + 4 * both
    factor = (stats.norm.ppf((1 + level) / 2) ** 2 - 1) / 6

    def tail(shift: float, bend: float) -> float:
        return shift if shift > 0 > bend else shift + bend * factor  # never less at a stricter level

    return tail(-c / 2, k - 3 * c), tail(c / 2, 3 * c - k)


@pytest.mark.parametrize("shares", [*SHARES, (1, 0, 0), (0, 1, 0)])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_the_interval_equals_the_protocols_formula_counted_cell_by_cell(shares: tuple[float, ...], level: float):
    rng = np.random.default_rng(7)
    for num_seeds, num_units in ((2, 2), (3, 11), (5, 40)):
        x = crossed(rng, shares, num_seeds, num_units) + 0.3
        found = two_way_interval(x, level)
        low, high, freedom = two_way_by_loops(x.tolist(), level)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
        if min(shares[:2]) > 0:  # where a component is 0 in truth, rounding may put it on either side of 0
            assert found.degrees_of_freedom == pytest.approx(freedom, rel=1e-9)


def test_a_table_that_can_be_counted_by_hand():
    # means 1 and 3 by seed, 1 and 3 by unit, residuals +-1: mean squares 4, 4 and 4, so that only the rest remains
    found = two_way_interval(np.array([[1.0, 1.0], [1.0, 5.0]]))
    assert found.estimate == 2.0
    assert found.components is not None
    assert (found.components.seed, found.components.unit, found.components.rest) == (0.0, 0.0, 1.0)
    assert found.degrees_of_freedom == 1
    # seed x unit x residual is 1 in every cell: k = 6 and c = 4 standard errors of 1, and only the upper end moves
    assert found.high == pytest.approx(2 + 12.706204736 + 4 / 2 + (3 * 4 - 6) * (1.959963985**2 - 1) / 6, rel=1e-9)
    assert found.low == pytest.approx(2 - 12.706204736, rel=1e-9)


def test_the_components_add_up_to_the_squared_standard_error():
    found = two_way_interval(crossed(np.random.default_rng(1), (0.4, 0.4, 0.2), 5, 30))
    assert found.components is not None
    assert found.standard_error is not None
    parts = found.components
    assert parts.seed + parts.unit + parts.rest == pytest.approx(found.standard_error**2, rel=1e-12)
    assert min(parts.seed, parts.unit, parts.rest) > 0


def test_where_only_seeds_differ_it_is_the_t_interval_over_seeds_and_where_only_units_differ_over_units():
    half = np.random.default_rng(2).normal(size=8)
    values = np.concatenate([half, 0.6 - half])  # without a tail to either side
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    for table in (np.tile(values[:, None], (1, 9)), np.tile(values, (5, 1))):
        found = two_way_interval(table)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_of_units_with_a_tail_the_interval_reaches_further_into_it_and_covers_more():
    rng = np.random.default_rng(21)
    hits, by_t = 0, 0
    for _ in range(1000):
        values = rng.exponential(size=30)
        table, plain = np.tile(values, (3, 1)), stats.ttest_1samp(values, 0).confidence_interval(0.95)
        found = two_way_interval(table)
        if values.mean() < np.median(values):
            continue
        assert found.low == pytest.approx(plain.low, rel=1e-9) or found.low < plain.low
        hits, by_t = hits + (found.low <= 1 <= found.high), by_t + (plain.low <= 1 <= plain.high)
    assert hits >= by_t + 8


def test_seeds_that_do_worse_in_proportion_to_how_hard_a_unit_is_are_covered_more_often_than_by_a_t_interval():
    rng = np.random.default_rng(22)
    too_low, by_t = 0, 0
    for _ in range(1000):
        table = rng.normal(1, 0.7, (10, 1)) * rng.normal(0.4, 1, (1, 100))  # 0.4 in truth
        found = two_way_interval(table)
        assert found.high is not None
        plain = found.estimate + stats.t.ppf(0.975, found.degrees_of_freedom) * found.standard_error
        too_low, by_t = too_low + (found.high < 0.4), by_t + (plain < 0.4)
    assert by_t > 50, "a t interval misses on this side twice as often as it says"
    assert too_low < 40


def test_equal_seed_means_by_accident_are_not_taken_for_certainty():
    rng = np.random.default_rng(23)
    table = crossed(rng, (0.0, 0.6, 0.4), 3, 200)
    table = table - table.mean(axis=1, keepdims=True) + 1e-3 * np.array([[0.0], [1.0], [2.0]])
    assert two_way_interval(table).degrees_of_freedom == 8
    equal = np.tile(table[0], (3, 1))
    assert two_way_interval(equal).degrees_of_freedom == 8


def test_one_changed_row_does_not_change_the_degrees_of_freedom_of_equal_seeds():
    """Seeds that lose the same number of rows agree by the chance of whole numbers, not because they are one run."""
    rng = np.random.default_rng(5)
    table = np.zeros((3, 200))
    for row in table:
        row[rng.choice(200, 8, replace=False)] = 1.0
    changed = table.copy()
    changed[0, 0] = 1.0
    found = [two_way_interval(x) for x in (table, changed)]
    assert found[0].degrees_of_freedom == pytest.approx(found[1].degrees_of_freedom, rel=0.3)
    assert found[0].high == pytest.approx(found[1].high, rel=0.15)


def test_a_level_and_its_p_value_agree_at_every_level_and_p_values_rise_with_the_mean():
    rng = np.random.default_rng(24)
    for num_seeds, num_units in ((2, 3), (3, 11), (5, 40)):
        for power in (1, 2, 3):
            x = rng.exponential(1, (50, 1, num_units)) ** power * rng.choice([-1, 1], (50, 1, 1))
            x = x + 0.5 * rng.standard_normal((50, num_seeds, num_units)) + rng.standard_normal((50, num_seeds, 1))
            spread = table_spread(x)
            for level in (0.2, 0.025, 0.005, 0.0004):
                below, above = spread.reach(1 - 2 * level)
                assert spread.probability_of_negative(-above) == pytest.approx(np.full(50, level), rel=1e-8)
                assert spread.mirrored().probability_of_negative(-below) == pytest.approx(np.full(50, level), rel=1e-8)
            means = np.linspace(-30, 30, 101)[:, None] * np.sqrt(spread.variance)
            assert (np.diff(spread.probability_of_negative(means), axis=0) >= -1e-12).all()


def test_the_chance_of_an_outcome_is_that_of_the_studies_that_go_on():
    rng = np.random.default_rng(26)
    num_units, mean = 60, -0.05
    promised, came = [], []
    for _ in range(600):
        unit, of_seeds = rng.normal(0, 0.1, (1, num_units)), rng.normal(0, 0.08, (10, 1))
        x = mean + unit + of_seeds + rng.normal(0, 0.1, (10, num_units))
        promised.append(chance_of_negative(x[:5], 10, 0.025))
        came.append(two_way_interval(x).high < 0)
    assert np.mean(promised) == pytest.approx(np.mean(came), abs=0.08)
    high = [here for chance, here in zip(promised, came, strict=True) if chance > 0.7]
    low = [here for chance, here in zip(promised, came, strict=True) if chance < 0.2]
    assert np.mean(high) > 0.6
    assert np.mean(low) < 0.3


def test_a_tail_of_units_stretches_the_end_on_its_side_only():
    rng = np.random.default_rng(25)
    few = np.zeros(60)
    few[:2] = 1.0
    for sign in (1.0, -1.0):
        found = two_way_interval(sign * few + 0.05 * rng.normal(size=(5, 60)))
        free = two_way_interval(sign * few + 0.05 * rng.normal(size=(5, 60)), guarded=False)
        reach = (found.high - found.estimate, found.estimate - found.low)[:: int(sign)]
        plain = (free.high - free.estimate, free.estimate - free.low)[:: int(sign)]
        assert reach[0] == pytest.approx(2 * plain[0], rel=0.1)
        assert reach[1] == pytest.approx(plain[1], rel=0.1)


def test_equal_differences_one_seed_and_one_unit_give_no_interval_rather_than_a_point():
    for table in (np.zeros((5, 20)), np.full((5, 20), 0.1), np.full((3, 7), 1e9 / 3)):
        assert two_way_interval(table).low is None
        assert two_way_interval(table).standard_error is None
        assert unit_interval(table).high is None
    rng = np.random.default_rng(3)
    assert two_way_interval(rng.normal(size=(1, 20))).low is None
    assert two_way_interval(rng.normal(size=(5, 1))).high is None
    assert unit_interval(rng.normal(size=(1, 20))).low is not None


def crossed(rng: np.random.Generator, shares: tuple[float, ...], num_seeds: int, num_units: int) -> np.ndarray:
    """x[s, i] with mean 0 whose mean has variance 1, of which seeds, units and rest have these shares."""
    seed, unit, rest = shares
    x = rng.normal(0, math.sqrt(seed * num_seeds), (num_seeds, 1)) + rng.normal(
        0, math.sqrt(unit * num_units), (1, num_units)
    )
    return x + rng.normal(0, math.sqrt(rest * num_seeds * num_units), (num_seeds, num_units))


@pytest.mark.parametrize("shares", SHARES)
def test_at_five_seeds_the_95_percent_interval_covers_the_truth_as_often_as_it_says(
    shares: tuple[float, ...],
):
    rng = np.random.default_rng(11)
    found = [two_way_interval(crossed(rng, shares, 5, 300)) for _ in range(1000)]
    hits = sum(interval.low <= 0 <= interval.high for interval in found)
    assert 920 <= hits <= (980 if shares[0] > 0.1 else 1000)  # a seed part of nothing is not taken as known


def test_a_t_interval_over_seed_means_covers_new_data_far_less_often_than_it_says():
    rng = np.random.default_rng(12)
    hits = 0
    for _ in range(500):
        by_seed = crossed(rng, (0.05, 0.85, 0.1), 10, 300).mean(axis=1)
        interval = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
        hits += interval.low <= 0 <= interval.high
    assert hits < 0.7 * 500


# --- from scores to differences


def test_a_linearised_ratio_has_the_delta_methods_standard_error():
    rng = np.random.default_rng(4)
    tokens = rng.lognormal(2, 0.8, 50)
    nll = tokens * rng.gamma(3, 0.3, 50)
    found = unit_interval(linearise(nll[None], tokens))

    def ratio(means: np.ndarray) -> float:
        return float(means[0] / means[1])

    means, step = np.array([nll.mean(), tokens.mean()]), 1e-6
    gradient = [(ratio(means + step * e) - ratio(means - step * e)) / (2 * step) for e in np.eye(2)]
    variance = gradient @ np.cov(nll, tokens) @ gradient / 50
    assert found.estimate == pytest.approx(nll.sum() / tokens.sum(), rel=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-6)


def test_the_mean_over_units_of_a_linearised_ratio_is_every_seeds_own_ratio():
    rng = np.random.default_rng(5)
    nll, tokens = rng.gamma(2, 2, (3, 20)), rng.integers(1, 9, 20)
    assert linearise(nll, tokens).mean(axis=1) == pytest.approx(nll.sum(axis=1) / tokens.sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("metric", "study"), [("nll", text_study), ("accuracy", class_study), ("macro_f1", class_study)]
)
def test_the_estimate_is_the_difference_of_the_values_that_a_reader_recomputes(metric: str, study):
    runs = study(1)
    found = PairedRuns(METRICS[metric], runs).contrast({"arm": 1, "full": -1}).interval()
    values = {arm: np.mean([compute(metric, run) for run in of_arm]) for arm, of_arm in runs.items()}
    assert found.estimate == pytest.approx(values["arm"] - values["full"], rel=1e-9)
    assert found.low < found.estimate < found.high
    assert found.num_units == len(set(runs["base"][0].units))


@pytest.mark.parametrize(
    ("metric", "study"), [("nll", text_study), ("accuracy", class_study), ("macro_f1", class_study)]
)
def test_swapping_arms_flips_the_sign(metric: str, study):
    paired = PairedRuns(METRICS[metric], study(2))
    there = paired.contrast({"arm": 1, "full": -1}).interval()
    back = paired.contrast({"full": 1, "arm": -1}).interval()
    assert (back.estimate, back.low, back.high) == pytest.approx((-there.estimate, -there.high, -there.low), rel=1e-9)


@pytest.mark.parametrize(
    ("metric", "study"), [("nll", text_study), ("accuracy", class_study), ("macro_f1", class_study)]
)
def test_neither_the_order_of_examples_nor_the_names_of_units_nor_the_order_of_seeds_matters(metric: str, study):
    runs = study(3)
    rng = np.random.default_rng(6)
    order = rng.permutation(len(runs["base"][0].examples))
    names = {unit: f"z{rng.random()}" for unit in set(runs["base"][0].units)}

    def disguised(run: Scores) -> Scores:
        moved = {k: v[order] for k, v in vars(run).items() if k != "written"}
        return Scores(**moved | {"units": np.array([names[u] for u in moved["units"]], dtype=object)})

    weights = {"arm": 1.0, "full": -0.9, "base": -0.1}
    plain = PairedRuns(METRICS[metric], runs).contrast(weights).interval()
    other = {arm: [disguised(run) for run in of_arm[::-1]] for arm, of_arm in runs.items()}
    found = PairedRuns(METRICS[metric], other).contrast(weights).interval()
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), rel=1e-9)


def test_rows_of_one_unit_count_as_one():
    runs = text_study(4)

    def collapsed(run: Scores) -> Scores:
        names = sorted(set(run.units))
        nll = [run.nll[run.units == name].sum() for name in names]
        return scores(nll=nll, tokens=[int(run.num_tokens[run.units == name].sum()) for name in names])

    units = {arm: [collapsed(run) for run in of_arm] for arm, of_arm in runs.items()}
    by_row, by_unit = (
        PairedRuns(METRICS["nll"], kind).contrast({"arm": 1, "full": -1}).interval() for kind in (runs, units)
    )
    assert (by_unit.low, by_unit.high) == pytest.approx((by_row.low, by_row.high), rel=1e-9)
    assert by_row.num_units == by_unit.num_units < 60


def test_correlated_rows_taken_for_units_make_the_interval_too_narrow():
    rng = np.random.default_rng(13)
    hits = dict.fromkeys(["rows", "groups"], 0)
    for _ in range(300):
        x = rng.normal(0, 1, (3, 320)) + np.repeat(rng.normal(0, 1, 40), 8)
        for kind, table in (("rows", x), ("groups", x.reshape(3, 40, 8).mean(axis=2))):
            interval = two_way_interval(table)
            hits[kind] += interval.low <= 0 <= interval.high
    assert hits["groups"] >= 0.92 * 300
    assert hits["rows"] < 0.8 * 300


def test_two_pseudo_units_are_added_to_a_difference_of_accuracies():
    runs = class_study(5)
    contrast = PairedRuns(METRICS["accuracy"], runs).contrast({"arm": 1, "full": -1})
    right = {arm: np.array([r.labels == r.predictions for r in of_arm], float) for arm, of_arm in runs.items()}
    expected = np.concatenate([right["arm"] - right["full"], np.tile([1.0, -1.0], (4, 1))], axis=1)
    assert contrast.values_SN == pytest.approx(expected, abs=1e-12)
    assert contrast.interval().num_units == 80


def test_pseudo_units_are_as_large_as_the_mean_unit():
    groups = np.array([f"u{i // 4:02d}" for i in range(80)], dtype=object)
    runs = {arm: [replace(r, units=groups) for r in of_arm] for arm, of_arm in class_study(5).items()}
    contrast = PairedRuns(METRICS["accuracy"], runs).contrast({"arm": 1, "full": -1})
    right = {arm: np.array([r.labels == r.predictions for r in of_arm], float) for arm, of_arm in runs.items()}
    by_group = (right["arm"] - right["full"]).reshape(4, 20, 4).mean(axis=2)
    expected = np.concatenate([by_group, np.tile([1.0, -1.0], (4, 1))], axis=1)
    assert contrast.values_SN == pytest.approx(expected, abs=1e-12)


def test_arms_that_never_disagree_are_known_to_differ_by_little_but_not_by_nothing():
    labels = [0, 1] * 150
    runs = [scores(labels=labels, predictions=[0] * 300)] * 3
    found = PairedRuns(METRICS["accuracy"], {"arm": runs, "full": runs}).contrast({"arm": 1, "full": -1}).interval()
    # the rule of three: no disagreement among 300 rows leaves about 3 / 300
    assert (found.low, found.high) == pytest.approx((-0.0108, 0.0108), abs=2e-4)


def test_pseudo_values_of_macro_f1_leave_one_whole_unit_out():
    run = replace(class_study(6)["arm"][0], units=np.array([f"u{i // 3}" for i in range(80)], dtype=object))
    other = replace(class_study(7)["arm"][0], units=run.units, labels=run.labels)
    contrast = PairedRuns(METRICS["macro_f1"], {"a": [run], "b": [other]}).contrast({"a": 1, "b": -1})

    def left_out(of_run: Scores, unit: str) -> float:
        kept = Scores(**{k: v[of_run.units != unit] for k, v in vars(of_run).items() if k != "written"})
        n = len(contrast.units)
        return n * compute("macro_f1", of_run) - (n - 1) * compute("macro_f1", kept)

    expected = [left_out(run, unit) - left_out(other, unit) for unit in contrast.units]
    assert contrast.values_SN[0] == pytest.approx(expected, rel=1e-9)


def test_runs_on_different_rows_are_refused():
    runs = text_study(8)
    base = runs["base"][0]
    for change in (
        {"examples": base.examples[::-1]},
        {"units": base.examples},
        {"num_tokens": base.num_tokens + 1},
        {"labels": base.labels + 1},
    ):
        with pytest.raises(StudyError, match="not scored on the same rows"):
            PairedRuns(METRICS["nll"], runs | {"base": [replace(base, **change)]})


# --- one arm's own metric


def test_an_arms_own_nll_has_its_mean_its_seeds_and_the_two_way_interval():
    runs = text_study(9)["arm"]
    found = mean_interval("nll", runs)
    by_seed = [run.nll.sum() / run.num_tokens.sum() for run in runs]
    assert found.per_seed == pytest.approx(by_seed, rel=1e-12)
    assert found.mean == pytest.approx(np.mean(by_seed), rel=1e-12)
    assert found.low < found.mean < found.high


def test_perplexity_is_exp_of_the_nll_of_its_mean_of_its_ends_and_by_seed():
    runs = text_study(10)["arm"]
    nll, perplexity = mean_interval("nll", runs), mean_interval("perplexity", runs)
    assert (perplexity.mean, perplexity.low, perplexity.high) == pytest.approx(
        (math.exp(nll.mean), math.exp(nll.low), math.exp(nll.high)), rel=1e-12
    )
    assert perplexity.per_seed == pytest.approx([compute("perplexity", run) for run in runs], rel=1e-12)


def test_bits_per_byte_is_a_ratio_of_its_own():
    runs = text_study(10)["arm"]
    runs = [replace(run, num_bytes=run.num_tokens * 4) for run in runs]
    nll, bits = mean_interval("nll", runs), mean_interval("bits_per_byte", runs)
    factor = 1 / (4 * math.log(2))
    assert (bits.mean, bits.low, bits.high) == pytest.approx((nll.mean * factor, nll.low * factor, nll.high * factor))


def test_an_arm_without_seeds_has_an_interval_over_units_and_one_seed_has_none():
    base = text_study(11)["base"]
    assert mean_interval("nll", base).low is None
    found = mean_interval("nll", base, seeds="fixed")
    expected = unit_interval(PairedRuns(METRICS["nll"], {"base": base}).mean("base").values_SN)
    assert (found.low, found.high) == (expected.low, expected.high)


def test_an_accuracy_of_all_or_nothing_still_has_an_interval_and_it_lies_within_0_and_1():
    labels = [0, 1] * 20
    perfect = mean_interval("accuracy", [scores(labels=labels, predictions=labels)] * 3)
    assert perfect.mean == perfect.high == 1.0
    assert 0.7 < perfect.low < 1.0
    hopeless = mean_interval("accuracy", [scores(labels=labels, predictions=[2] * 40)] * 3)
    assert hopeless.mean == hopeless.low == 0.0


def test_one_arms_accuracy_covers_the_truth_also_near_1():
    rng = np.random.default_rng(14)
    hits = 0
    for _ in range(300):
        labels = np.zeros(100, dtype=int)
        often = rng.random(100) < 0.97
        runs = [scores(labels=labels, predictions=np.where(often, 0, 1)) for _ in range(3)]
        interval = mean_interval("accuracy", runs)
        hits += interval.low <= 0.97 <= interval.high
    assert hits >= 0.93 * 300


def test_a_perplexity_too_large_to_write_is_none_and_not_infinite():
    huge = [scores(nll=[1e6, 2e6, 1.5e6]) for _ in range(3)]
    found = mean_interval("perplexity", huge)
    assert (found.mean, found.high, found.per_seed) == (None, None, (None, None, None))
    assert mean_interval("nll", huge).mean == 1.5e6


# --- gain kept


@pytest.mark.parametrize(
    ("metric", "study"), [("nll", text_study), ("accuracy", class_study), ("macro_f1", class_study)]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_fieller_set_is_that_of_a_brute_force_grid(metric: str, study, seed: int):
    paired = PairedRuns(METRICS[metric], study(20 + seed))
    found = gain_kept(paired.contrast({"arm": 1, "base": -1}), paired.contrast({"arm": 1, "full": -1}))
    inside = []
    for rho in np.linspace(0, 2, 2001):
        interval = paired.contrast({"arm": 1, "full": -rho, "base": -(1 - rho)}).interval()
        middle = (interval.low + interval.high) / 2
        half = (interval.high - interval.low) / 2
        inside += [rho] if abs(middle) <= half else []
    assert (found.low, found.high) == pytest.approx((inside[0], inside[-1]), abs=1.1e-3)
    assert found.low < found.estimate < found.high


def test_gain_kept_is_one_for_full_itself_and_nought_for_the_base():
    runs = text_study(30)
    paired = PairedRuns(METRICS["nll"], runs | {"same": runs["full"], "none": runs["base"]})
    full = gain_kept(paired.contrast({"same": 1, "base": -1}), paired.contrast({"same": 1, "full": -1}))
    none = gain_kept(paired.contrast({"none": 1, "base": -1}), paired.contrast({"none": 1, "full": -1}))
    assert full.estimate == pytest.approx(1.0)
    assert none.estimate == pytest.approx(0.0)


def test_the_fieller_set_has_no_ends_where_the_gain_is_lost_in_the_noise():
    rng = np.random.default_rng(15)
    runs = {arm: [scores(nll=rng.gamma(5, 1, 30)) for _ in range(3)] for arm in ("arm", "full", "base")}
    paired = PairedRuns(METRICS["nll"], runs)
    found = gain_kept(paired.contrast({"arm": 1, "base": -1}), paired.contrast({"arm": 1, "full": -1}))
    assert (found.low, found.high) == (None, None)
