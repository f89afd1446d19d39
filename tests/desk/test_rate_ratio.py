"""How many times full's best rate an arm's is: known answers, and silence where the search was too small."""

import math

import numpy as np
import pytest

from tunewise.desk.analysis.rate_ratio import SeedLosses, rate_ratio

RATES = [3.0**place for place in (-1, -0.5, 0, 0.5, 1)]


def curves(centre: float, bottoms: tuple[float, ...], rates: list[float] = RATES) -> SeedLosses:
    """Per search seed a parabola in ln rate, lowest `exp(bottom)` times the centre; tried at `rates` times it."""
    return {
        seed: {centre * rate: 2 + 0.1 * (math.log(rate) - bottom) ** 2 for rate in rates}
        for seed, bottom in enumerate(bottoms)
    }


def test_exact_parabolas_give_their_ratio_and_the_t_interval_over_seeds() -> None:
    """Per seed the logarithms differ by ln 10 + 0.1, ln 10 and ln 10 - 0.1: a standard error of 0.1 / sqrt(3)."""
    found = rate_ratio(curves(1e-3, (0.2, 0.0, -0.3)), curves(1e-4, (0.1, 0.0, -0.2)))
    assert found is not None
    half = 4.302653 * 0.1 / math.sqrt(3)  # the t quantile of 2 degrees of freedom
    assert found.estimate == pytest.approx(10)
    assert (found.low, found.high) == pytest.approx((10 * math.exp(-half), 10 * math.exp(half)), rel=1e-6)


def test_the_interval_covers_the_true_ratio_in_about_95_of_100_searches() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        bottoms = rng.normal(0, 0.15, (2, 3))
        found = rate_ratio(curves(5e-4, tuple(bottoms[0])), curves(1e-4, tuple(bottoms[1])))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        hits += found.low < 5 < found.high
    assert hits / 400 == pytest.approx(0.95, abs=0.044)  # 4 Monte Carlo errors


@pytest.mark.parametrize(
    "arm",
    [
        curves(1e-3, (0.0, 0.1)),  # two search seeds
        curves(1e-3, (0.0, 0.1, 0.2), RATES[:4]),  # four rates
        curves(1e-3, (0.0, 0.1, 0.2), [0.05, 1.0, 3.0, 9.0, 27.0]),  # five, but three of them near the best
        curves(1e-3, (0.0, 0.1, 2.0)),  # a seed whose lowest point is beyond the rates tried
        {seed: dict.fromkeys(RATES, 2.0) for seed in range(3)},  # flat
        {},
    ],
)
def test_too_small_a_search_gives_no_estimate(arm: SeedLosses) -> None:
    assert rate_ratio(arm, curves(1e-4, (0.0, 0.1, 0.2)[: max(len(arm), 1)])) is None


def test_other_search_seeds_than_fulls_are_not_paired_with_them() -> None:
    full = curves(1e-4, (0.0, 0.1, 0.2))
    assert rate_ratio({seed + 1: losses for seed, losses in full.items()}, full) is None
