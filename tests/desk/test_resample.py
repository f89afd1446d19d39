"""What resampling buys: intervals that hold for new training sets, as far as the draws are independent."""

import numpy as np
import pytest

from tunewise.desk.statistics.intervals import two_way_interval

STUDIES, SEEDS, UNITS = 2_000, 5, 100


def coverage(shared: float, resample: bool) -> float:
    """Share of studies whose 95% interval covers the mean difference over all training sets, 0.

    Training sets and seeds add equal variances of 1. A draw takes the share `shared` of its pool, and the study has one
    pool. So of the variance between training sets, this share is common to all draws (sampling without replacement),
    and without resampling all of it.
    """
    rng = np.random.default_rng(19)
    common = shared if resample else 1.0
    covered = 0
    for _ in range(STUDIES):
        of_pool = rng.normal(0, common**0.5)
        of_draw_S = rng.normal(0, (1 - common) ** 0.5, SEEDS)
        of_seed_S, of_unit_N = rng.normal(0, 1, SEEDS), rng.normal(0, 1, UNITS)
        table_SN = of_pool + (of_draw_S + of_seed_S)[:, None] + of_unit_N + rng.normal(0, 1, (SEEDS, UNITS))
        found = two_way_interval(table_SN)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
    return covered / STUDIES


def test_with_draws_from_a_large_pool_the_interval_covers_new_training_sets() -> None:
    assert coverage(0.0, resample=True) == pytest.approx(0.95, abs=0.02)


def test_with_one_training_set_it_covers_far_fewer() -> None:
    assert coverage(0.0, resample=False) < 0.8


def test_draws_that_share_most_of_their_rows_hold_little_of_the_variance() -> None:
    """So documents and findings give the share of common rows."""
    found = {shared: coverage(shared, resample=True) for shared in (0.1, 0.5, 0.9)}
    assert found[0.1] > 0.9
    assert 0.75 < found[0.5] < 0.9
    assert found[0.9] < 0.8
