"""Laws of the search for the learning rate: one rule, followed to its end, whatever the losses."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tunewise.desk.protocol.search import (
    LEAST_FACTOR,
    Tolerance,
    brackets_best,
    chosen_rate,
    grid_rate,
    headroom,
    lowest_point,
    search,
)
from tunewise.spec import TuningSpec

Losses = dict[float, float | None]
COARSE = TuningSpec(half_steps=False)
SHORT = TuningSpec(rates=7, search="short")


def waiting(tuning: TuningSpec, losses: Losses) -> list[float]:
    return search(tuning, 1e-3, losses, {}, dict).waiting


def explore(
    tuning: TuningSpec,
    loss: Callable[[float], float | None],
    middle: float = 1e-3,
    short_loss: Callable[[float], float | None] | None = None,
    tolerance: Tolerance | None = None,
) -> tuple[Losses, Losses]:
    """rate -> loss of a whole search, driven by `search` alone: trials of full length, and short ones."""
    tried: Losses = {}
    short: Losses = {}
    while not (found := search(tuning, middle, tried, short, dict, tolerance)).is_over:
        for wanted, made in ((found.waiting, tried), (found.waiting_short, short)):
            assert not set(wanted) & set(made), "a rate that was tried already"
            assert len(set(wanted)) == len(wanted), "a rate twice"
        tried |= {rate: loss(rate) for rate in found.waiting}
        short |= {rate: (short_loss or loss)(rate) for rate in found.waiting_short}
    return tried, short


def distance(optimum: float) -> Callable[[float], float]:
    return lambda rate: abs(math.log(rate / optimum))


# --- the grid and its edges


def test_the_search_begins_with_the_grid_around_the_centre() -> None:
    assert waiting(TuningSpec(), {}) == [3.33e-4, 1e-3, 3e-3]
    assert waiting(TuningSpec(rates=5), {}) == [1.11e-4, 3.33e-4, 1e-3, 3e-3, 9e-3]
    assert waiting(TuningSpec(rates=1), {}) == [1e-3]
    assert waiting(TuningSpec(), {1e-3: 2.0}) == [3.33e-4, 3e-3]


def test_one_rate_is_no_search() -> None:
    assert explore(TuningSpec(rates=1), distance(9e-3))[0] == {1e-3: distance(9e-3)(1e-3)}


@pytest.mark.parametrize(
    ("optimum", "tried"),
    [
        (1e-3, [3.33e-4, 1e-3, 3e-3]),
        (9e-3, [3.33e-4, 1e-3, 3e-3, 9e-3, 2.7e-2]),
        (1.11e-4, [3.33e-4, 1e-3, 3e-3, 1.11e-4, 3.7e-5]),
        (1.0, [3.33e-4, 1e-3, 3e-3, 9e-3, 2.7e-2, 8.1e-2, 2.43e-1]),
        (1e-9, [3.33e-4, 1e-3, 3e-3, 1.11e-4, 3.7e-5, 1.23e-5, 4.12e-6]),
    ],
)
def test_the_search_is_extended_while_the_best_is_at_an_edge_up_to_the_cap(optimum: float, tried: list[float]) -> None:
    assert list(explore(COARSE, distance(optimum))[0]) == tried


def test_the_search_turns_round_where_noise_moves_the_best_to_the_other_edge() -> None:
    losses = {3.33e-4: 3.0, 1e-3: 3.1, 3e-3: 2.0, 9e-3: 2.5, 1.11e-4: 1.0, 3.7e-5: 4.0}
    assert list(explore(COARSE, losses.__getitem__)[0]) == [3.33e-4, 1e-3, 3e-3, 9e-3]
    assert waiting(COARSE, {**losses, 3.33e-4: 1.5}) == []


def test_a_diverged_rate_closes_its_edge() -> None:
    losses = {3.33e-4: 3.0, 1e-3: 2.5, 3e-3: 2.0, 9e-3: None}
    assert list(explore(COARSE, losses.__getitem__)[0]) == list(losses)
    losses = {3.33e-4: 3.0, 1e-3: 2.0, 3e-3: None}
    assert list(explore(COARSE, losses.__getitem__)[0]) == list(losses)


def test_where_everything_diverges_the_search_goes_down_to_the_cap() -> None:
    found = explore(TuningSpec(cap=5), lambda rate: None)[0]
    assert list(found) == [3.33e-4, 1e-3, 3e-3, 1.11e-4, 3.7e-5]


def test_after_all_began_diverged_the_first_rate_that_does_not_is_bracketed_from_below() -> None:
    losses = {3.33e-4: None, 1e-3: None, 3e-3: None, 1.11e-4: 2.0, 3.7e-5: 2.5}
    assert list(explore(COARSE, losses.__getitem__)[0]) == list(losses)


# --- the half-steps


def test_the_two_half_steps_around_a_bracketed_best_end_the_search() -> None:
    assert list(explore(TuningSpec(), distance(1.1e-3))[0]) == [3.33e-4, 1e-3, 3e-3, 1.73e-3, 5.77e-4]
    assert set(explore(TuningSpec(spacing=4), distance(1e-3))[0]) == {2.5e-4, 1e-3, 4e-3, 5e-4, 2e-3}


def test_the_half_steps_surround_the_best_of_the_grid_and_nothing_follows_a_half_step_that_is_better() -> None:
    tried = explore(TuningSpec(cap=20), distance(6.1e-4))[0]
    assert list(tried) == [3.33e-4, 1e-3, 3e-3, 5.77e-4, 1.73e-3]
    assert min(tried, key=distance(6.1e-4)) == 5.77e-4


@pytest.mark.parametrize(
    ("optimum", "cap", "half_steps"),
    [
        (8e-4, 3, set()),
        (8e-4, 4, {5.77e-4}),
        (1.2e-3, 4, {1.73e-3}),
        (1.2e-3, 5, {1.73e-3, 5.77e-4}),
        (1.2e-3, 6, {1.73e-3, 5.77e-4}),
        (9e-3, 5, set()),
        (9e-3, 6, {1.56e-2}),
        (9e-3, 7, {1.56e-2, 5.2e-3}),
    ],
)
def test_the_cap_leaves_room_for_two_half_steps_or_for_the_one_towards_the_better_neighbour(
    optimum: float, cap: int, half_steps: set[float]
) -> None:
    tuning = TuningSpec(cap=cap)
    optimum *= 1.01  # 9e-3 itself would leave both sides equal
    assert set(explore(tuning, distance(optimum))[0]) - set(explore(COARSE, distance(optimum))[0]) == half_steps


def test_a_half_step_is_tried_beside_a_diverged_rate_but_first_on_the_other_side() -> None:
    losses = {3.33e-4: 3.0, 1e-3: 2.0, 3e-3: None}
    assert waiting(TuningSpec(), losses) == [5.77e-4, 1.73e-3]
    assert waiting(TuningSpec(cap=4), losses) == [5.77e-4]


def test_no_half_step_is_made_of_a_best_rate_at_an_edge_or_where_they_are_switched_off() -> None:
    assert set(explore(TuningSpec(cap=5), distance(1.0))[0]) == {3.33e-4, 1e-3, 3e-3, 9e-3, 2.7e-2}
    assert len(explore(COARSE, distance(1e-3))[0]) == 3


# --- any losses


@given(
    rates=st.integers(1, 6),
    more=st.integers(0, 6),
    spacing=st.floats(1.1, 20),
    middle=st.floats(1e-8, 1.0),
    losses=st.lists(st.one_of(st.none(), st.floats(0, 10)), min_size=12, max_size=12),
    half_steps=st.booleans(),
)
@settings(max_examples=300)
def test_a_search_repeats_no_rate_keeps_to_the_cap_and_ends_bracketed_or_at_the_cap(  # noqa: PLR0913
    rates: int, more: int, spacing: float, middle: float, losses: list[float | None], half_steps: bool
) -> None:
    tuning = TuningSpec(rates=rates, cap=rates + more, spacing=spacing, half_steps=half_steps)
    answers = iter(losses)
    tried = explore(tuning, lambda rate: next(answers), middle)[0]
    assert rates <= len(tried) <= tuning.cap
    assert all(rate > 0 for rate in tried)
    if rates > 1 and len(tried) < tuning.cap:
        assert brackets_best(tried)


@given(losses=st.lists(st.one_of(st.none(), st.floats(0, 10)), min_size=12, max_size=12), cap=st.integers(3, 10))
def test_the_search_never_goes_past_a_diverged_rate_while_another_trained(losses: list[float | None], cap: int) -> None:
    answers = iter(losses)
    tried: Losses = {}
    while wanted := waiting(TuningSpec(cap=cap), tried):
        edges = (min(tried), max(tried)) if tried else ()
        if any(loss is not None for loss in tried.values()):
            for rate in wanted:
                assert not (rate < edges[0] and tried[edges[0]] is None)
                assert not (rate > edges[1] and tried[edges[1]] is None)
        tried |= {rate: next(answers) for rate in wanted}


@given(
    order=st.randoms(use_true_random=False),
    keep=st.floats(0, 1),
    optimum=st.floats(1e-6, 10),
    tuning=st.sampled_from([TuningSpec(), COARSE, TuningSpec(cap=4), SHORT]),
)
def test_a_search_that_lost_any_of_its_trials_makes_them_again_and_no_others(
    order: random.Random, keep: float, optimum: float, tuning: TuningSpec
) -> None:
    loss = distance(optimum)
    whole, whole_short = explore(tuning, loss)
    kept = {rate: value for rate, value in whole.items() if order.random() < keep}
    short = {rate: value for rate, value in whole_short.items() if order.random() < keep}
    while not (found := search(tuning, 1e-3, kept, short, dict)).is_over:
        kept |= {rate: loss(rate) for rate in found.waiting}
        short |= {rate: loss(rate) for rate in found.waiting_short}
    assert (kept, short) == (whole, whole_short)


def test_trials_left_over_from_another_centre_or_cap_change_nothing() -> None:
    leftovers = {7e-4: 0.1, 1e-5: 0.0, 9e-3: 0.2, 2.43e-1: 0.01}
    losses = {3.33e-4: 3.0, 1e-3: 2.0, 3e-3: 2.5}
    found = search(COARSE, 1e-3, {**leftovers, **losses}, leftovers, dict)
    assert found.is_over
    assert found.tried == list(losses)
    assert found.tried_short == []


# --- short trials


def test_short_trials_cover_the_grid_and_only_the_best_and_its_neighbours_run_in_full() -> None:
    tried, short = explore(SHORT, distance(3e-3))
    assert list(short) == [3.7e-5, 1.11e-4, 3.33e-4, 1e-3, 3e-3, 9e-3, 2.7e-2]
    assert list(tried) == [1e-3, 3e-3, 9e-3]


def test_nothing_runs_in_full_before_every_short_trial_is_there() -> None:
    short = dict.fromkeys([3.7e-5, 1.11e-4, 3.33e-4, 1e-3, 3e-3, 9e-3], 1.0)
    found = search(SHORT, 1e-3, {}, short, dict)
    assert (found.waiting, found.waiting_short) == ([], [2.7e-2])


def test_a_short_trial_is_never_taken_for_one_of_full_length() -> None:
    losses = {grid_rate(SHORT, 1e-3, place): float(place**2) for place in range(-3, 4)}
    found = search(SHORT, 1e-3, {}, losses, dict)
    assert found.tried == []
    assert found.waiting == [3.33e-4, 1e-3, 3e-3]
    assert search(TuningSpec(rates=7), 1e-3, {}, losses, dict).waiting == list(losses)


def test_where_the_whole_schedule_disagrees_with_the_short_one_the_search_is_extended() -> None:
    tried, _ = explore(SHORT, distance(2.7e-2), short_loss=distance(1e-3))
    assert list(tried) == [3.33e-4, 1e-3, 3e-3, 9e-3, 2.7e-2, 8.1e-2]
    at_edge, _ = explore(SHORT, distance(2.7e-2))
    assert list(at_edge) == [9e-3, 2.7e-2, 8.1e-2]


def test_where_every_short_trial_diverged_the_trials_in_full_begin_at_the_lowest_rate() -> None:
    tried, _ = explore(SHORT, distance(1.23e-5), short_loss=lambda rate: None)
    assert list(tried)[:3] == [1.23e-5, 3.7e-5, 1.11e-4]


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"rates": 6}, "rates is 6"), ({"rates": 7, "cap": 2}, "at least 3 with tuning.search: short")],
)
def test_short_trials_are_for_seven_rates_or_more_and_three_in_full(changes: dict[str, int], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        TuningSpec.model_validate({"search": "short", **changes})


# --- the lowest point of the curve (`protocol: adaptive`)

TOLERANCE = Tolerance(0.005)


def tried_on(loss: Callable[[float], float | None], tuning: TuningSpec | None = None) -> Losses:
    return explore(tuning or TuningSpec(), loss, tolerance=TOLERANCE)[0]


@given(optimum=st.floats(2e-4, 5e-3), bend=st.floats(0.005, 0.01))
def test_on_a_parabola_no_trial_follows_the_bracket_and_its_lowest_point_is_confirmed(
    optimum: float, bend: float
) -> None:
    losses = tried_on(lambda rate: 1 + bend * math.log(rate / optimum) ** 2)
    assert len(losses) <= 5, "3 rates, at most 2 beyond an edge, no half-step"
    assert chosen_rate(losses, TOLERANCE) == pytest.approx(optimum, rel=0.006), "rates have 3 digits"
    assert set(losses) == set(explore(COARSE, lambda rate: 1 + bend * math.log(rate / optimum) ** 2)[0])


def test_a_steep_parabola_is_tested_by_one_trial_at_its_lowest_point() -> None:
    optimum = 1.6e-3
    losses = tried_on(lambda rate: 1 + 0.3 * math.log(rate / optimum) ** 2)
    assert set(losses) == {3.33e-4, 1e-3, 3e-3, optimum}
    assert chosen_rate(losses, TOLERANCE) == pytest.approx(optimum, rel=0.006)


@pytest.mark.parametrize(
    "loss",
    [
        lambda rate: 1 + 0.03 * math.log(rate / 1e-3) ** 2 + (8.0 if rate > 1.2e-3 else 0.0),
        lambda rate: None if rate > 1.2e-3 else 1 + 0.03 * math.log(rate / 9e-4) ** 2,
    ],
    ids=["wall", "diverges"],
)
def test_a_wall_gets_its_half_steps(loss: Callable[[float], float | None]) -> None:
    losses = tried_on(loss)
    below = [rate for rate in losses if 1 / LEAST_FACTOR < rate / 5.77e-4 < LEAST_FACTOR]
    assert (1.73e-3 in losses, len(below), len(losses)) == (True, 1, 5), "or a trial so near that it counts as one"
    chosen = chosen_rate(losses, TOLERANCE)
    assert chosen is not None
    assert chosen < 1.2e-3


@given(
    rates=st.integers(1, 4),
    more=st.integers(0, 4),
    losses=st.lists(st.one_of(st.none(), st.floats(0, 3)), min_size=1, max_size=9),
    half_steps=st.booleans(),
)
def test_whatever_the_losses_the_search_ends_within_its_cap_and_confirms_beside_its_best(
    rates: int, more: int, losses: list[float | None], half_steps: bool
) -> None:
    tuning = TuningSpec(rates=rates, cap=rates + more, half_steps=half_steps)
    tried = tried_on(lambda rate: losses[hash(rate) % len(losses)], tuning)
    assert len(tried) <= tuning.cap
    chosen, finished = chosen_rate(tried, TOLERANCE), {rate: loss for rate, loss in tried.items() if loss is not None}
    assert (chosen is None) == (not finished)
    if chosen is None or chosen in tried:
        return
    lowest = lowest_point(tried)
    assert lowest is not None
    near = sorted([*tried, chosen])
    place = near.index(chosen)
    best = min(finished, key=lambda rate: (finished[rate], rate))
    assert best in (near[place - 1], near[place + 1]), "between the best rate and one of its neighbors"
    assert lowest.gain <= TOLERANCE.absolute


def test_the_tolerance_is_the_smaller_of_a_constant_and_a_share_of_the_gain() -> None:
    both = Tolerance(0.005, 0.0125, 2.0)
    assert both.at(1.0) == 0.005
    assert both.at(1.9) == pytest.approx(0.00125)
    assert both.at(2.5) == 0.0, "no gain, nothing to neglect"
    assert Tolerance(share_of_gain=0.0125, reference=2.0).at(1.0) == 0.0125


def test_without_a_tolerance_the_best_rate_tried_is_confirmed_after_both_half_steps() -> None:
    losses = explore(TuningSpec(), lambda rate: 1 + 0.01 * math.log(rate / 1.2e-3) ** 2)[0]
    assert set(losses) == {3.33e-4, 5.77e-4, 1e-3, 1.73e-3, 3e-3}
    assert chosen_rate(losses) == 1e-3


# --- headroom


def test_headroom_is_the_depth_of_the_parabola_below_the_best_rate() -> None:
    """Known answer: for y = (x - v)^2 + c at any three points the minimum is c, whatever their distances."""
    for vertex in (-0.4, 0.0, 0.3):
        losses = {math.exp(x): (x - vertex) ** 2 + 2.0 for x in (-1.5, 0.0, 1.0)}
        assert headroom(losses) == pytest.approx(vertex**2, abs=1e-12)


@given(
    rises=st.tuples(st.floats(1e-3, 5), st.floats(0, 5)),
    steps=st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)),
)
def test_headroom_agrees_with_an_independent_fit_and_is_never_negative(
    rises: tuple[float, float], steps: tuple[float, float]
) -> None:
    xs, ys = (-steps[0], 0.0, steps[1]), (1 + rises[0], 1.0, 1 + rises[1])
    losses = {math.exp(x): y for x, y in zip(xs, ys, strict=True)}
    lowest = lowest_point(losses)
    assert lowest is not None
    found = lowest.gain
    assert found >= 0
    assert headroom(losses) == min(found, 1.0), "a loss is never below 0"
    squared, linear, constant = np.polyfit(xs, ys, 2)
    if squared > 1e-6:
        assert found == pytest.approx(1.0 - (constant - linear**2 / (4 * squared)), abs=1e-6)


def test_headroom_looks_at_the_best_and_its_two_neighbours_alone() -> None:
    near = {1e-3: 2.0, 3e-3: 1.0, 9e-3: 3.0}
    assert headroom({**near, 1e-4: 9.0, 1e-1: None}) == headroom(near)


def test_headroom_shrinks_with_the_half_steps() -> None:
    optimum = 1.4e-3

    def squared(rate: float) -> float:
        return 0.1 * math.log(rate / optimum) ** 2 + 0.05 * abs(math.log(rate / optimum)) ** 3

    coarse, fine = headroom(explore(COARSE, squared)[0]), headroom(explore(TuningSpec(), squared)[0])
    assert coarse is not None
    assert fine is not None
    assert 0 < fine < coarse


@pytest.mark.parametrize(
    "losses",
    [
        {},
        {1e-3: None},
        {1e-3: 1.0},
        {1e-3: 1.0, 3e-3: 2.0},
        {1e-3: 3.0, 3e-3: 2.0, 9e-3: 1.0},
        {1e-3: 3.0, 3e-3: 2.0, 9e-3: None},
        {1e-3: 3.0, 3e-3: None, 9e-3: 2.0, 2.7e-2: 4.0},
    ],
)
def test_headroom_is_unknown_without_a_measured_neighbour_on_both_sides(losses: Losses) -> None:
    assert headroom(losses) is None


def test_two_rates_as_good_leave_the_headroom_between_them() -> None:
    """Known answer: through (-1, 1), (0, 0), (1, 0) goes (x^2 - x) / 2, whose minimum is -1/8."""
    assert headroom({math.exp(-1): 2.0, 1.0: 1.0, math.exp(1): 1.0}) == pytest.approx(1 / 8)
    assert headroom({1e-3: 1.0, 3e-3: 1.0, 9e-3: 1.0}) is None, "of equals the lowest is chosen, and it is an edge"
