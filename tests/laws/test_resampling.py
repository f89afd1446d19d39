"""Law 53: with data.resample, arms of a seed train on one draw, all draws take equal steps, and test never changes."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_studies import FolderOf, SmallStudy, rows_of, small_study

from tunewise.desk.report.compose.build import build_report
from tunewise.desk.study.declarations import changed, declarations
from tunewise.lab.data.prepare import data_key
from tunewise.records import RunRecord
from tunewise.spec import RunSpec

ARMS = {
    "full": {"method": "full", "learning_rate": 1e-3},
    "lora": {"method": "lora", "rank": 2, "learning_rate": 1e-2},
}
PROTOCOL = {"train": {"epochs": 2, "batch_size": 1, "evaluations": 1}, "tuning": {"rates": 1, "cap": 1}, "looks": [3]}


def study_of(root: Path, folder_of: FolderOf, resample: bool) -> SmallStudy:
    root.mkdir(parents=True)
    path = root / "all.jsonl"
    # units of one to five rows, so draws differ in their number of rows
    rows = [{**row, "source": f"s{int(number**0.7)}"} for number, row in enumerate(rows_of("sft"))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"train": str(path), "group": "source", "split": {"valid": 0.3, "test": 0.3}, "resample": resample}
    return small_study(root, folder_of("llama"), "sft", ARMS, data=data, **PROTOCOL)


def scored(study: SmallStudy, run: RunRecord, split: str) -> frozenset[str]:
    rows = pq.read_table(study.ledger.scores_path(run.run_id)).to_pylist()
    return frozenset(row["example"] for row in rows if row["split"] == split)


@pytest.fixture(scope="module")
def resampled(tmp_path_factory: pytest.TempPathFactory, folder_of: FolderOf) -> SmallStudy:
    return study_of(tmp_path_factory.mktemp("training-resampled") / "study", folder_of, resample=True).finish()


def by_role(study: SmallStudy) -> tuple[list[RunRecord], list[RunRecord]]:
    """Confirmed runs, and all others."""
    confirmed = [run for run in study.records() if run.spec.role == "confirm"]
    return confirmed, [run for run in study.records() if run.spec.role != "confirm"]


@pytest.mark.slow
def test_law_53_arms_of_one_seed_share_a_draw_and_seeds_do_not(resampled: SmallStudy) -> None:
    confirmed, others = by_role(resampled)
    valid_of = {(run.spec.arm, run.spec.seed): scored(resampled, run, "valid") for run in confirmed}
    seeds = sorted({seed for _, seed in valid_of})
    assert len(seeds) == 3
    for seed in seeds:
        assert valid_of["full", seed] == valid_of["lora", seed]
    assert len({valid_of["full", seed] for seed in seeds}) > 1
    declared = frozenset(pq.read_table(resampled.data_folder / "valid.parquet")["example"].to_pylist())
    assert {scored(resampled, run, "valid") for run in others} == {declared}  # base and trials


def test_law_53_every_draw_takes_equal_steps_and_is_scored_on_one_test_set(resampled: SmallStudy) -> None:
    confirmed, others = by_role(resampled)
    assert {run.num_steps for run in confirmed} == {run.num_steps for run in others if run.spec.role == "tune"}
    test = frozenset(pq.read_table(resampled.data_folder / "test.parquet")["example"].to_pylist())
    assert {scored(resampled, run, "test") for run in confirmed} == {test}
    assert not any(scored(resampled, run, "valid") & test for run in confirmed)


def test_law_53_a_report_on_draws_says_so_and_blocks_nothing(resampled: SmallStudy) -> None:
    found = {finding.id: finding for finding in build_report(resampled.ledger).warnings}
    assert found["training-resampled"].severity == "note"
    assert "different-training" not in found


def test_law_53_only_confirmed_runs_of_a_resampled_study_have_other_ids(
    resampled: SmallStudy, tmp_path: Path, folder_of: FolderOf
) -> None:
    plain = study_of(tmp_path / "study", folder_of, resample=False)
    assert plain.data.key == resampled.data.key  # the prepared data serve both
    assert data_key(plain.study, "t") == data_key(resampled.study, "t")
    for run in resampled.records():
        spec = run.spec.replace(resample=False)
        assert (spec.run_id != run.run_id) == (run.spec.role == "confirm")
        old = {key: value for key, value in spec.model_dump(mode="json").items() if key != "resample"}
        assert RunSpec.model_validate(old).run_id == spec.run_id  # a folder written before resampling


def test_law_53_resampling_is_declared(resampled: SmallStudy) -> None:
    """Otherwise a study could choose between both after its first test score."""
    study, data = resampled.study, resampled.data
    other = study.replace(data=study.data.replace(resample=False).model_dump())
    assert "resample" not in declarations(other, data)
    assert changed(declarations(other, data), study, data, ()) == ("resample",)
    assert changed(declarations(study, data), other, data, ()) == ("resample",)
