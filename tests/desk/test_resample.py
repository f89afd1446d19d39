"""What resampling buys: intervals that hold for new training sets, as far as the draws are independent."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
coverage = importlib.import_module("training_sets").coverage


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
