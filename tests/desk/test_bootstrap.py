"""The pigeonhole bootstrap: against exact moments and against the interval that it cross-checks."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tunewise.desk.report.pages.html import write_report
from tunewise.desk.statistics.bootstrap import CHUNK_CELLS, pigeonhole_interval, pigeonhole_means
from tunewise.desk.statistics.intervals import two_way_interval
from tunewise.desk.statistics.paired import Contrast


def contrast(values_SN: np.ndarray) -> Contrast:
    names = np.array([f"u{i}" for i in range(values_SN.shape[1])], dtype=object)
    return Contrast(float(values_SN.mean()), values_SN, names)


def crossed(seed: int, num_seeds: int, num_units: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.1, (num_seeds, 1)) + rng.normal(0, 1, (1, num_units))
    return x + rng.normal(0, 0.5, (num_seeds, num_units))


def test_the_draws_have_the_mean_and_the_variance_of_drawing_seeds_and_units_independently():
    x = crossed(1, 6, 50)
    means = pigeonhole_means(x, 200_000, np.random.default_rng(2))
    assert means.mean() == pytest.approx(x.mean(), abs=4 * means.std() / np.sqrt(len(means)))
    # draws of two crossed factors: Var = V_seed/S + V_unit/N + V_rest/(S N), of the table's own (biased) variances
    by_seed, by_unit = x.mean(axis=1), x.mean(axis=0)
    rest = x - by_seed[:, None] - by_unit + x.mean()
    variance = by_seed.var() / 6 + by_unit.var() / 50 + (rest**2).mean() / (6 * 50)
    assert means.var() == pytest.approx(variance, rel=0.015)


def test_with_many_seeds_and_units_it_agrees_with_the_interval():
    x = crossed(3, 60, 400)
    found, expected = pigeonhole_interval(contrast(x)), two_way_interval(x)
    assert (found.low, found.high) == pytest.approx(
        (expected.low, expected.high), abs=0.06 * (expected.high - x.mean())
    )


def test_with_one_seed_effect_only_it_is_scipys_bootstrap_of_the_seed_means():
    by_seed = np.random.default_rng(4).normal(size=8)
    found = pigeonhole_interval(contrast(np.tile(by_seed[:, None], (1, 30))))
    other = stats.bootstrap((by_seed,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5))
    expected = other.confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.04)


def test_fewer_than_five_seeds_give_none_and_every_call_the_same():
    assert pigeonhole_interval(contrast(crossed(5, 4, 40))) is None
    five = contrast(crossed(5, 5, 40))
    assert pigeonhole_interval(five, num_draws=500) == pigeonhole_interval(five, num_draws=500)
    wide, narrow = pigeonhole_interval(five, 0.99), pigeonhole_interval(five, 0.9)
    assert wide.low < narrow.low < five.estimate < narrow.high < wide.high


def test_draws_are_made_in_chunks_so_that_memory_does_not_grow_with_them():
    x = crossed(6, 10, 10_000)
    tracemalloc.start()
    pigeonhole_means(x, 200, np.random.default_rng(7))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 8 * CHUNK_CELLS  # all 10,000 draws at once would take 800 MB


def test_it_stands_in_the_report_beside_the_verdict_from_five_seeds_on(make_study: Any) -> None:
    ledger = make_study(study={"looks": [5], "arms": {"full": {"method": "full"}, "r8": {"method": "lora"}}})
    (verdict,) = write_report(ledger).verdicts
    found = verdict.pigeonhole
    assert found.low < verdict.difference < found.high
    assert found.estimate == pytest.approx(verdict.difference)
    assert "pigeonhole bootstrap" in (ledger.folder / "report.html").read_text(encoding="utf-8")
