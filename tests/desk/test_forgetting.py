"""Learning against forgetting: curves, the level that every arm reaches, and what each has forgotten there."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewise.desk.analysis.forgetting import Point, at_first_crossing, equal_quality, mean_curve, read_curve
from tunewise.desk.report.compose.build import build_report
from tunewise.records import FORGETTING_SCHEMA
from tunewise.storage.ledger import Ledger

TOKENS_U = np.array([10.0, 30.0])


def run(valid: list[float], general: list[float], offset: float = 0.0) -> list[Point]:
    """Measurements at steps 0, 10, 20, ...; `general` is the NLL per token of both documents."""
    pairs = zip(valid, general, strict=True)
    shift_U = np.array([offset, -offset / 3])  # differs between documents, not in the mean over tokens
    return [Point(10 * i, v, (g + shift_U * (i > 0)) * TOKENS_U, TOKENS_U) for i, (v, g) in enumerate(pairs)]


def test_forgetting_is_read_where_the_loss_on_valid_first_reaches_the_level() -> None:
    found = at_first_crossing(run([4.0, 3.0, 2.0, 2.5], [5.0, 5.2, 5.6, 6.0]), 2.5)
    assert found is not None
    step, change_U = found
    assert step == pytest.approx(15.0)
    assert change_U / TOKENS_U == pytest.approx([0.4, 0.4])  # halfway between 5.2 and 5.6, minus 5.0


def test_a_level_that_is_never_reached_has_no_crossing_and_one_below_the_start_none_before_it() -> None:
    measured = run([4.0, 3.0, 2.0], [5.0, 5.2, 5.6])
    assert at_first_crossing(measured, 1.9) is None
    at_start = at_first_crossing(measured, 4.5)
    assert at_start is not None
    assert at_start[0] == 0
    assert not at_start[1].any()


def test_the_level_is_what_every_run_reaches_so_that_more_learning_is_not_called_more_forgetting() -> None:
    """Both arms forget 0.1 nats per nat learned; the stronger one goes on learning."""
    strong = [run([4.0, 3.0, 2.0], [5.0, 5.1, 5.2], o) for o in (0.0, 0.01, -0.01)]
    weak = [run([4.0, 3.5, 3.0], [5.0, 5.05, 5.1], o) for o in (0.0, 0.01, -0.01)]
    found = equal_quality({"strong": strong, "weak": weak}, "strong")
    assert found["strong"].level == found["weak"].level == 3.0
    assert found["strong"].change == pytest.approx(0.1)
    assert found["weak"].change == pytest.approx(0.1)
    assert found["strong"].steps == pytest.approx(10)
    assert found["weak"].steps == pytest.approx(20)
    assert mean_curve(strong)[-1].change == pytest.approx(0.2), "at the end the stronger arm has forgotten more"
    low, high = found["strong"].low, found["strong"].high
    assert low is not None
    assert high is not None
    assert low < 0.1 < high


def test_no_run_is_left_out_and_arms_are_compared_seed_by_seed() -> None:
    """A level that only the better runs of an arm reach would make that arm look better than it is."""
    full = [run([4.0, 3.0, 2.0], [5.0, 5.1, 5.2]), run([4.0, 3.0, 2.0], [5.0, 5.5, 6.0])]
    arm = [run([4.0, 3.0], [5.0, 5.3]), run([4.0, 3.2], [5.0, 5.6])]  # the second never gets below 3.2
    found = equal_quality({"full": full, "lora": arm}, "full")
    assert found["full"].level == found["lora"].level == 3.2
    assert found["lora"].change == pytest.approx((0.3 * 0.8 + 0.6) / 2)
    assert found["full"].change == pytest.approx((0.1 * 0.8 + 0.5 * 0.8) / 2)
    assert found["full"].against_full is None
    paired = found["lora"].against_full
    assert paired is not None
    assert paired.estimate == pytest.approx(found["lora"].change - found["full"].change)
    assert equal_quality({"full": full, "lora": arm[:1]}, "full")["lora"].against_full is None, "no pairs"


def test_a_measurement_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    rows = [
        {"step": step, "valid_nll": valid, "unit": unit, "nll": 2.0, "num_tokens": 1}
        for step, valid in ((0, 3.0), (5, float("nan")))
        for unit in "ba"
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=FORGETTING_SCHEMA), tmp_path / "f.parquet")
    assert [point.step for point in read_curve(tmp_path / "f.parquet")] == [0]
    assert read_curve(tmp_path / "none.parquet") == []


def test_the_report_reads_every_arm_at_the_same_level(finished: Ledger) -> None:
    report = build_report(finished)
    arms = {arm.name: arm for arm in report.tuned_arms()}
    levels = {arm.forgetting_at_equal_quality.level for arm in arms.values() if arm.forgetting_at_equal_quality}
    assert len(levels) == 1
    assert report.arm("base").forgetting_at_equal_quality is None
    for arm in arms.values():
        assert len(arm.forgetting_curve) == 11
        assert arm.forgetting_curve[0].change == 0
    full = arms["full"]
    assert full.forgetting_curve[-1].change == pytest.approx(0.09)
