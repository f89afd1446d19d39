"""How much evidence a verdict takes: against known answers, and against simulated studies."""

import math

import numpy as np
import pytest
from scipy import stats

from tunewise.desk.report.sentences import what_would_decide
from tunewise.desk.statistics.intervals import Components, two_way_interval
from tunewise.desk.statistics.power import (
    Needed,
    assumed_unit_sd,
    chance_of_as_good,
    needed,
    power,
    smallest_margin,
    strictest_level,
)

# --- before training


@pytest.mark.parametrize(("sd_per_margin", "num_seeds"), [(0.5, 5), (1.0, 10), (1.5, 20), (2.0, 34)])
def test_the_smallest_margin_gives_the_known_numbers_of_seeds(sd_per_margin: float, num_seeds: int):
    def resolved(seeds: int) -> bool:
        return smallest_margin(10**6, seeds, unit_sd=1e-9, seed_sd=sd_per_margin) <= 1

    assert resolved(num_seeds)
    assert not resolved(num_seeds - 1)


def test_at_the_smallest_margin_eighty_percent_of_simulated_studies_of_equal_arms_say_as_good():
    margin = smallest_margin(150, 5, unit_sd=0.3)
    assert margin == pytest.approx(math.sqrt(7.85 / 150) * 0.3, rel=0.1)  # of 16 degrees of freedom rather than 149
    rng = np.random.default_rng(16)
    hits = 0
    for _ in range(1000):
        units = rng.normal(0, 0.3, 150)
        hits += two_way_interval(np.tile(units, (5, 1))).high < margin
    assert 760 <= hits <= 840


def test_500_rows_seldom_resolve_a_margin_of_one_point_and_less_often_for_more_arms():
    """With the spread of two good classifiers; at the smallest margin that is resolved it is 80 %."""
    spread = assumed_unit_sd("accuracy", has_classes=True)
    assert spread is not None
    assert chance_of_as_good(500, 10, spread, 0.01) == pytest.approx(0.109, abs=0.005)
    for level in (0.025, strictest_level(3)):
        margin = smallest_margin(500, 10, spread, level=level)
        assert chance_of_as_good(500, 10, spread, margin, level) == pytest.approx(0.8, abs=0.001)
    assert smallest_margin(500, 10, spread, level=strictest_level(3)) > smallest_margin(500, 10, spread)
    assert chance_of_as_good(500, 2, 0.1, 1.0) == chance_of_as_good(9, 5, 0.1, 1.0) == 0


@pytest.mark.parametrize(("num_seeds", "smallest"), [(3, 0.125), (4, 0.0625), (5, 0.03125)])
def test_a_sign_flip_test_needs_five_seeds_to_reach_5_percent_however_clear_the_difference(num_seeds, smallest):
    differences = np.linspace(1.0, 1.1, num_seeds)
    found = stats.permutation_test((differences,), np.mean, permutation_type="samples", alternative="greater")
    assert found.pvalue == pytest.approx(smallest)
    assert (found.pvalue < 0.05) == (num_seeds >= 5)


def test_too_few_seeds_or_units_resolve_no_margin():
    assert smallest_margin(1000, 2, 0.1) == math.inf
    assert smallest_margin(9, 5, 0.1) == math.inf


# --- what a new study would need

KNOWN = [(0.5, 5), (1.0, 10), (1.5, 20), (2.0, 34)]


def seeds_alone(sd: float, num_seeds: int) -> Components:
    return Components(seed=sd**2 / num_seeds, unit=1e-12, rest=1e-12)


@pytest.mark.parametrize(("sd_per_margin", "num_seeds"), KNOWN)
def test_where_only_seeds_differ_the_known_numbers_of_seeds_are_needed(sd_per_margin: float, num_seeds: int):
    found = needed(seeds_alone(sd_per_margin, 5), 5, 400, 1.0)
    assert (found.kind, found.likely, found.beside) == ("seeds", num_seeds, 400)


def test_where_more_than_fifty_seeds_would_be_needed_nothing_is_left_but_to_say_so():
    assert needed(seeds_alone(2.4, 5), 5, 400, 1.0).likely == 48  # 7.85 2.4^2 + 2 = 47.2
    found = needed(seeds_alone(2.5, 5), 5, 400, 1.0)
    assert (found.kind, found.likely, found.beside) == ("units", None, 50)
    assert "nor would any number of test rows with 50 seeds" in what_would_decide(found)


def test_no_number_of_seeds_suffices_where_the_units_alone_leave_the_margin_open():
    just_enough, too_much = 0.999 / 7.849, 1.001 / 7.849  # 7.849 = (1.95996 + 0.84162)^2
    few = Components(seed=0.001, unit=just_enough, rest=1e-9)
    assert needed(few, 5, 10**6, 1.0).kind == "seeds"
    found = needed(Components(seed=0.001, unit=too_much, rest=1e-9), 5, 10**6, 1.0)
    assert (found.kind, found.beside) == ("units", 5)
    assert 1.0e6 < found.likely < 1.02e6


def test_units_are_counted_at_more_seeds_where_the_seeds_of_now_would_never_do():
    found = needed(Components(seed=1.0, unit=0.5, rest=0.1), 5, 200, 1.0)
    assert (found.kind, found.beside) == ("units", 50)
    assert found.likely is not None


def test_the_range_reaches_to_both_sides_and_shrinks_with_more_evidence():
    widths = []
    for num_seeds, num_units in ((3, 100), (10, 1000), (40, 10000)):
        found = needed(Components(seed=0.64 / num_seeds, unit=0.01, rest=0.01), num_seeds, num_units, 1.0)
        assert found.kind == "seeds"
        assert found.fewest <= found.likely <= (found.most or math.inf)
        widths.append((found.most or 1000) - found.fewest)
    assert widths[0] > widths[1] > widths[2] > 0


def test_a_stricter_level_needs_more():
    plain, strict = (needed(seeds_alone(1.0, 5), 5, 400, 1.0, level).likely for level in (0.025, 0.025 / 3))
    assert plain == 10
    assert strict > plain


@pytest.mark.parametrize("parts", [Components(0.03, 0.04, 0.05), Components(0.1, 0.001, 0.01)])
def test_the_power_is_that_of_simulated_studies(parts: Components):
    rng = np.random.default_rng(17)
    num_seeds, num_units, num_studies = 6, 40, 2000
    hits = 0
    for _ in range(num_studies):
        x = rng.normal(0, math.sqrt(parts.seed * num_seeds), (num_seeds, 1))
        x = x + rng.normal(0, math.sqrt(parts.unit * num_units), (1, num_units))
        x = x + rng.normal(0, math.sqrt(parts.rest * num_seeds * num_units), (num_seeds, num_units))
        hits += two_way_interval(x).high < 1.0
    # 4 Monte Carlo errors are 4 points; the degrees of freedom vary from study to study
    assert hits / num_studies == pytest.approx(float(power(parts, num_seeds, num_units, 1.0)), abs=0.06)


def test_the_sentence_gives_the_range_and_speaks_of_a_new_study():
    seeds = Needed(kind="seeds", likely=12, fewest=7, most=31, beside=1400)
    assert what_would_decide(seeds) == (
        "To settle this: if there is truly no difference, a new study with about 12 seeds (range 7 to 31) on this test "
        "set would show it with 80% probability."
    )
    assert "(range 7 to over 50)" in what_would_decide(seeds.replace(most=None))
    units = Needed(kind="units", likely=2300, fewest=1900, most=None, beside=5)
    assert what_would_decide(units) == (
        "To settle this: if there is truly no difference, a new study with 5 seeds and about 2,300 independent test "
        "rows or groups (1,900 at best, at worst no number is enough) would show it with 80% probability. Even 50 "
        "seeds on this test set would not be enough."
    )
    assert "(1,900 at best, 9,000 at worst)" in what_would_decide(units.replace(most=9000))
