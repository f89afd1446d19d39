"""Studies drawn from recorded training runs: a small, seeded `make replicate` with limits 1.5 points wider."""

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tunewise.desk.statistics.spread import Spread

SLACK = 0.015
SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
replicate = importlib.import_module("replicate")
calibrate = importlib.import_module("calibrate")


def test_arms_that_are_known_to_be_worse_are_found_and_never_called_as_good():
    rng = np.random.default_rng(3)
    num_due = 0
    for (name, metric), arm in itertools.product(replicate.MEASURED, replicate.CONTROLS):
        found, *best, good = replicate.control(rng, replicate.read_pool(name, metric), arm, 400)
        is_due = bool(best) and best[0].measured >= replicate.CONTROL_FOUND
        num_due += is_due
        assert found.limit == (replicate.CONTROL_FOUND if is_due else 0)
        assert found.holds(SLACK)
        assert good.holds(SLACK)
    assert num_due >= 4


def test_no_test_finds_more_than_one_that_knows_the_true_standard_error():
    rng = np.random.default_rng(5)
    for harm, about in ((1.0, 0.025), (1 + 1.96, 0.5), (1 + 1.96 + 1.2816, 0.9)):
        estimates = rng.normal(harm, 1.0, 40_000)
        ones, zeros = np.ones(40_000), np.zeros(40_000)
        drawn = calibrate.Fit(estimates, Spread(ones, ones, zeros, zeros, ones, ones))
        assert replicate.best_power(drawn, 1.0) == pytest.approx(about, abs=0.01)


def test_default_studies_end_in_one_outcome_and_more_seldom_inconclusive_of_one_arm_than_of_two():
    pool = replicate.read_pool("trec6", "accuracy")
    of_one, of_two = (replicate.ends(np.random.default_rng(4), pool, "lora-r8", 300, num) for num in (1, 2))
    for found in (of_one, of_two):
        assert sum(found.outcomes.values()) == pytest.approx(1)
        assert 3 < found.seeds < 10
    assert of_one.outcomes["undecided"] + 0.02 < of_two.outcomes["undecided"]
    worse = replicate.ends(np.random.default_rng(4), pool, "full-tenth", 100, 2)
    assert worse.outcomes["worse"] > 0.95
    assert worse.seeds < 5


@pytest.mark.parametrize(("name", "metric"), replicate.MEASURED)
def test_as_good_keeps_its_error_on_recorded_runs(name, metric):
    pool = replicate.read_pool(name, metric)
    rows = [row for row in replicate.of_pool(np.random.default_rng(3), pool, 400) if row.what.startswith("as good")]
    assert len(rows) == 4
    assert not [f"{row.what} {row.measured:.3f}" for row in rows if not row.holds(SLACK)]


def test_a_pool_holds_paired_seeds_of_both_arms_and_the_truth_is_the_difference_of_their_means():
    for name in replicate.POOLS:
        pool = replicate.read_pool(name, "nll")
        assert {
            arm: len(losses) for arm, losses in pool.losses.items() if arm not in (*replicate.CONTROLS, "head")
        } == {
            "full": 40,
            "lora-r8": 40,
        }
        assert all(len(pool.losses[arm]) == 10 for arm in replicate.CONTROLS)
        rows = pool.sizes_U.sum()
        means = {arm: pool.losses[arm].sum(axis=1).mean() / rows for arm in ("full", "lora-r8")}
        assert pool.truth("lora-r8") == pytest.approx(means["lora-r8"] - means["full"], abs=1e-12)


def test_a_pool_of_generated_text_is_scored_per_supervised_token():
    pool = replicate.read_pool("e2e", "nll")
    rows = pq.read_table(SCRIPTS / "pool" / "e2e.parquet").to_pylist()
    of_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in ("full", "lora-r8")}
    per_token = {arm: sum(r["nll"] for r in of) / sum(r["tokens"] for r in of) for arm, of in of_arm.items()}
    assert pool.truth("lora-r8") == pytest.approx(per_token["lora-r8"] - per_token["full"], rel=1e-6)


def test_a_drawn_study_has_the_mean_of_its_seeds_and_units():
    pool = replicate.Pool("small", "nll", {}, np.tile([1.0, 3.0], 60))
    harm_SU = np.tile([[2.0, 0.0], [4.0, 3.0]], 60)
    tables = replicate.draw(np.random.default_rng(0), harm_SU, pool, 1000)
    assert tables.shape == (1000, 10, 120)
    assert tables.mean() == pytest.approx(harm_SU.sum(axis=1).mean() / 240, abs=0.01)  # 240 rows in the pool


def test_opposite_words_are_seen():
    assert replicate.is_opposite(["worse", "as good"])
    assert replicate.is_opposite(["better", "worse"])
    assert not replicate.is_opposite(["worse", "undecided"])
    assert not replicate.is_opposite(["better", "as good"])


def test_an_arm_that_is_truly_different_from_itself_would_be_seen():
    pool = replicate.read_pool("trec6", "nll")
    moved = pool.losses["full"].copy()
    moved[: len(moved) // 2] += 15 * replicate.MARGINS["nll"] * pool.sizes_U  # half of the seeds are another arm's
    apart = replicate.Pool(pool.name, pool.metric, {"full": moved}, pool.sizes_U)
    row = next(replicate.control(np.random.default_rng(4), _against_first_half(apart), "moved", 200))
    assert row.measured > 0.5


def _against_first_half(pool):
    half = len(pool.losses["full"]) // 2
    losses = {"full": pool.losses["full"][half:], "moved": pool.losses["full"][:half]}
    return replicate.Pool(pool.name, pool.metric, losses, pool.sizes_U)


def test_the_document_was_written_by_the_script_and_studies_done_twice_do_not_say_opposite_words():
    text = (SCRIPTS.parent / "docs" / "explanation" / "replication.md").read_text(encoding="utf-8")
    assert f"{replicate.NUM_STUDIES:,} studies are drawn from each" in text
    assert "**contradict**" not in text
    assert replicate.replication_table(replicate.replications()) in text
