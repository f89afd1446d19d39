"""Laws of the certainty of a verdict: what an interval and a family of arms may not depend on."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from tunewise.desk.metrics.scores import Scores
from tunewise.desk.protocol.search import Tolerance, chosen_rate, search
from tunewise.desk.statistics.comparison import ArmScores, Comparison
from tunewise.desk.statistics.multiplicity import decide_together
from tunewise.desk.statistics.spread import MeanSquares, spread_of
from tunewise.desk.statistics.verdict import NOTHING_LEFT_OPEN
from tunewise.spec import Margin, TuningSpec

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
simulated = importlib.import_module("calibrate_search")


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
@pytest.mark.parametrize("unit", [0.0, 0.9, 1.1, 5.0, 20.0, 1e6])
def test_law_51_an_interval_changes_little_when_the_spread_does(num_seeds: int, unit: float) -> None:
    """No jump where one mean square crosses another, on either side of the rest or at nothing."""

    def half(seed: float, unit: float) -> float:
        squares = MeanSquares(np.array(seed), np.array(unit), np.array(1.0))
        return float(spread_of(squares, num_seeds, 300).reach(0.95)[0])

    grid = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 2000)])
    halves = np.array([half(seed, unit) for seed in grid])
    assert np.abs(np.diff(np.log(halves))).max() < 0.01
    by_unit = np.array([half(seed, unit) for seed in (0.0, 1.0, 3.0) for unit in (0.999, 1.001)]).reshape(3, 2)
    assert by_unit[:, 0] == pytest.approx(by_unit[:, 1], rel=0.005)


def comparison(margin: float) -> Comparison:
    """An arm that equals full, on the same runs for every margin."""
    rng = np.random.default_rng(4)
    names = np.array([f"row-{i:03d}" for i in range(100)], dtype=object)
    none, tokens = np.full(100, -1), np.full(100, 8)

    def run() -> Scores:
        nll = 2.0 + rng.normal(0, 0.02) + rng.normal(0, 0.1, 100)
        return Scores(names, names, nll * tokens, tokens, tokens, none, none, np.zeros((100, 0)))

    arm, full = (tuple(run() for _ in range(5)) for _ in range(2))
    return Comparison("arm", ArmScores(arm, full, (run(),)), "nll", Margin(absolute=margin), NOTHING_LEFT_OPEN)


def test_law_52_an_arm_that_ended_inconclusive_keeps_its_place_among_the_others() -> None:
    """Dropping it from the family because of its data would give its level to the others."""
    margin = optimize.brentq(lambda size: comparison(size).p_values()["as good"] - 0.02, 0.001, 1.0)
    alone = comparison(margin)
    assert decide_together([alone])[0].outcome == "as good"
    (beside,) = decide_together([alone], left=["undecided"])
    assert (beside.outcome, beside.num_compared) == ("undecided", 2)
    assert decide_together([alone], left=["worse"])[0].outcome == "undecided", "that is another outcome"
    assert decide_together([alone], left=["as good"])[0].outcome == "as good"
    assert decide_together([alone], left=["better"])[0].outcome == "as good"


def confirmed(curve: str, best: float, tolerance: Tolerance | None) -> tuple[int, float]:
    """Trials of a search without noise, and what the rate that it confirms loses to the best one, in margins."""
    tuning = TuningSpec()

    def loss(rate: float) -> float | None:
        return simulated.CURVES[curve](math.log(rate / simulated.CENTER, tuning.spacing) - best)

    losses: dict[float, float | None] = {}
    while waiting := search(tuning, simulated.CENTER, losses, {}, dict, tolerance).waiting:
        losses |= {rate: loss(rate) for rate in waiting}
    rate = chosen_rate(losses, tolerance)
    assert rate is not None
    found = loss(rate)
    return len(losses), math.inf if found is None else found / simulated.MARGIN


@pytest.mark.parametrize("curve", simulated.CURVES)
def test_law_54_a_search_leaves_out_only_trials_that_its_curve_makes_needless(curve: str) -> None:
    """Against the rule that always takes both half-steps: hardly more trials, never half a margin more loss."""
    trials_left_out = 0
    for best in np.linspace(-1, 1, 41):
        (before, regret_before), (now, regret) = (confirmed(curve, best, of) for of in (None, simulated.TOLERANCE))
        assert now <= before + 1, "the trial that found a wall"
        assert regret <= regret_before + (0.5 if "unequal" in curve else 0.25), "a quarter is what a verdict forgives"
        trials_left_out += before - now
    has_wall = any(word in curve for word in ("wall", "diverges from", "steep cliff"))
    assert has_wall or trials_left_out >= 20
