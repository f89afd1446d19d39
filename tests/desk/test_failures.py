"""A run that ends far from the others is named, and "as good" never stands without the share that may fail."""

import json
from pathlib import Path

import numpy as np
import pytest

from desk.conftest import write_study
from tunewise.desk.analysis.failures import failing_share_bound, far_runs
from tunewise.desk.report.compose.build import build_report, headline
from tunewise.desk.report.sentences import sentence
from tunewise.records import RunRecord


@pytest.mark.parametrize(
    ("failed", "runs", "bound"),
    [(0, 3, 0.632), (0, 5, 0.451), (0, 10, 0.259), (1, 10, 0.394), (2, 10, 0.507), (5, 5, 1.0)],  # published tables
)
def test_the_bound_is_that_of_clopper_and_pearson(failed: int, runs: int, bound: float) -> None:
    assert failing_share_bound(failed, runs) == pytest.approx(bound, abs=1e-3)


@pytest.mark.parametrize("runs", [3, 4, 5, 6, 7, 8, 9, 10, 15])
def test_at_most_one_arm_in_a_hundred_has_a_far_run_by_chance(runs: int) -> None:
    values = np.random.default_rng(runs).normal(size=(10_000, runs))
    alarms = np.mean([bool(far_runs(row, 0.0)) for row in values])
    assert alarms <= 0.0125, "1% and 2.5 standard errors"
    assert not any(far_runs(row, 3.0) for row in values[:1000]), "no distance reaches two margins"


@pytest.mark.parametrize("failing", [(4,), (1, 7)])
def test_two_of_ten_failing_runs_do_not_hide_each_other(failing: tuple[int, ...]) -> None:
    values = 0.98 + np.random.default_rng(0).normal(0, 0.002, 10)
    values[list(failing)] = 0.5
    assert far_runs(values, 0.01) == failing


def test_one_run_in_ten_that_fails_is_named_or_its_bound_includes_it_in_95_of_100_studies() -> None:
    """The cell that no few seeds can hold: 10% of runs end at 50%, all others at 98%."""
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(2_000):
        is_failing = rng.random(10) < 0.1
        found = far_runs(np.where(is_failing, 0.5, 0.98 + rng.normal(0, 0.002, 10)), 0.01)
        if is_failing.sum() < 5:  # half of the runs are no longer outliers of the arm
            assert found == tuple(np.flatnonzero(is_failing))
        covered.append(failing_share_bound(len(found), 10) >= 0.1)
    assert np.mean(covered) >= 0.95


def test_as_good_never_stands_without_the_share_that_may_fail(tmp_path: Path) -> None:
    report = build_report(write_study(tmp_path / "study"))
    good = [verdict for verdict in report.verdicts if verdict.outcome in ("better", "as good")]
    assert good, "there is a word to qualify"
    for verdict in good:
        assert verdict.num_failed == 0
        assert f"0 of {verdict.num_seeds} runs failed, so up to 63% of new runs may fail" in verdict.sentence
    failed = good[0].replace(num_failed=1, failing_share_bound=0.86)
    assert "1 of 3 runs failed, so up to 86%" in sentence(failed)
    assert f"1 of 3 runs of {failed.arm} failed" in headline([failed])


def test_a_far_run_is_a_finding_and_counts_as_failed(tmp_path: Path) -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ledger = write_study(tmp_path / "study", {"looks": [5]})
    record: RunRecord = next(r for r in ledger.records() if (r.spec.arm, r.spec.role) == ("lora-r8", "confirm"))
    path = ledger.scores_path(record.run_id)
    table = pq.read_table(path)
    place = table.schema.get_field_index("nll")
    pq.write_table(table.set_column(place, "nll", pc.multiply(table["nll"], 1.5)), path)
    ledger.finish(record)
    report = build_report(ledger)
    finding = next(finding for finding in report.warnings if finding.id == "far-run")
    assert finding.evidence == f"lora-r8: seeds {record.spec.seed}"
    verdict = next(verdict for verdict in report.verdicts if verdict.arm == "lora-r8")
    assert (verdict.num_failed, verdict.far_runs) == (1, {"lora-r8": (record.spec.seed,)})
    assert verdict.failing_share_bound == pytest.approx(0.657, abs=1e-3)
    assert json.loads(report.model_dump_json())["verdicts"]
