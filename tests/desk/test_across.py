"""Several studies side by side, records as a table, and the results of peft's own comparison."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tunewise.cli.app import app
from tunewise.desk.report import wording
from tunewise.desk.report.across import print_side_by_side, side_by_side
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.export import export_records
from tunewise.desk.report.peft_results import peft_result
from tunewise.errors import StudyError
from tunewise.storage.ledger import Ledger

# The shape of huggingface/peft's method_comparison/MetaMathQA/results, with the figures of its
# full-finetuning--llama-3.2-3B-lr_0.00001.json of 2025-06-20.
FULL = {
    "run_info": {
        "experiment_name": "full-finetuning/llama-3.2-3B-lr_0.00001",
        "train_config": {"model_id": "meta-llama/Llama-3.2-3B", "seed": 0, "optimizer_kwargs": {"lr": 1e-05}},
        "peft_config": None,
    },
    "train_info": {
        "cuda_memory_max": 37241225216,
        "train_time": 3111.3685010060144,
        "file_size": 6425499648,
        "num_trainable_params": 3212749824,
        "status": "success",
        "metrics": [
            {"step": 250, "valid accuracy": 0.3},
            {"step": 5000, "test accuracy": 0.5003790750568613, "train loss": 0.5987544150352478},
        ],
    },
    "meta_info": {},
}


def other_study(make_study: Any, **arguments: Any) -> Any:
    return build_report(make_study(**arguments))


def test_arms_of_studies_on_the_same_data_stand_in_one_table(finished: Ledger, make_study: Any) -> None:
    first = build_report(finished)
    second = other_study(make_study, study={"train": {"epochs": 3}, "margin": "0.05"})
    together = side_by_side({"a": first, "b": second})
    assert [row.arm for row in together.rows] == [arm.name for report in (first, second) for arm in report.arms]
    lora = next(row for row in together.rows if (row.source, row.arm) == ("b", "lora-r8"))
    assert lora.quality == second.arm("lora-r8").metrics["nll"]
    assert lora.outcome == next(v.outcome for v in second.verdicts if v.arm == "lora-r8")
    assert together.remarks == ("The studies differ in training (a: epochs=2, b: epochs=3).",)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"data": {"inputs": {"data": "e" * 64}}}, r"data \(a: dddddddd, b: eeeeeeee\)"),
        ({"data": {"inputs": {"base": "c" * 64}}}, r"base weights \(a: bbbbbbbb, b: cccccccc\)"),
        ({"data": {"inputs": {"tokenizer": "c" * 64}}}, "tokenizer"),
        ({"data": {"inputs": {"versions": {"torch": "2.14"}}}}, "library versions .*torch=2.13.*torch=2.14"),
        ({"study": {"task": "classify"}, "data": {"task": "classify"}}, r"task \(a: sft, b: classify\); metric"),
    ],
)
def test_studies_that_measured_something_else_are_refused_and_the_difference_is_named(
    finished: Ledger, make_study: Any, arguments: dict[str, Any], reason: str
) -> None:
    first = build_report(finished)
    if "inputs" in arguments.get("data", {}):
        arguments = {"data": {"inputs": {**first.data.inputs.model_dump(), **arguments["data"]["inputs"]}}}
    with pytest.raises(StudyError, match=reason):
        side_by_side({"a": first, "b": other_study(make_study, **arguments)})


def test_a_result_of_pefts_suite_becomes_a_row_without_an_interval(tmp_path: Path) -> None:
    path = tmp_path / "full.json"
    path.write_text(json.dumps(FULL))
    row, remark = peft_result(path)
    assert row.quality is not None
    assert (row.quality.mean, row.quality.low, row.quality.high) == (0.5003790750568613, None, None)
    assert (row.learning_rate, row.trainable_parameters) == (1e-05, 3212749824)
    assert (row.train_seconds, row.peak_memory_bytes, row.saved_bytes) == (3111.3685010060144, 37241225216, 6425499648)
    assert "meta-llama/Llama-3.2-3B" in remark
    newer = {**FULL["train_info"], "accelerator_memory_max": 5}
    del newer["cuda_memory_max"]
    path.write_text(json.dumps({**FULL, "train_info": newer}))
    assert peft_result(path)[0].peak_memory_bytes == 5


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", json.dumps({**FULL, "train_info": {**FULL["train_info"], "status": "failed"}}), "\0"],
)
def test_any_other_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(StudyError, match=r"other\.json"):
        peft_result(path)
    with pytest.raises(StudyError, match=r"nothing\.json"):
        peft_result(tmp_path / "nothing.json")


@pytest.mark.parametrize("width", [40, 80])
def test_no_width_loses_an_arm_a_source_or_an_outcome(finished: Ledger, make_study: Any, width: int) -> None:
    together = side_by_side({"runs/one": build_report(finished), "runs/two": other_study(make_study)})
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        print_side_by_side(together, console)
    text = captured.get()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for row in together.rows:
        assert row.source in text
        assert row.outcome is None or wording.OUTCOMES[row.outcome] in text
        assert row.quality is not None
        assert f"{row.quality.mean:.4f}" in text


def test_every_run_is_a_row_of_the_export_and_its_metrics_are_those_of_the_report(
    finished: Ledger, tmp_path: Path
) -> None:
    records = finished.records()
    assert export_records({"a": finished}, tmp_path / "runs.parquet") == len(records)
    rows = pq.read_table(tmp_path / "runs.parquet").to_pylist()
    assert [row["run_id"] for row in rows] == [record.run_id for record in records]
    report = build_report(finished)
    by_seed = {row["seed"]: row["test_nll"] for row in rows if (row["arm"], row["role"]) == ("full", "confirm")}
    found = tuple(by_seed[seed] for seed in report.study.seeds)
    assert found == pytest.approx(report.arm("full").metrics["nll"].per_seed)
    assert all(row["test_nll"] is None for row in rows if row["role"] == "tune")

    export_records({"a": finished}, tmp_path / "runs.csv")
    assert csv.read_csv(tmp_path / "runs.csv").column("run_id").to_pylist() == [r.run_id for r in records]


def test_an_export_to_another_format_or_into_nowhere_is_refused(finished: Ledger, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"\.csv or \.parquet"):
        export_records({"a": finished}, tmp_path / "runs.xlsx")
    with pytest.raises(StudyError, match="its folder does not exist"):
        export_records({"a": finished}, tmp_path / "nowhere" / "runs.csv")


@pytest.mark.parametrize("records", ["runs.xlsx", "nowhere/runs.csv", "."])
@pytest.mark.parametrize("more", [[], ["--peft-results", "nowhere.json"]])
def test_a_report_of_several_folders_writes_nothing_before_it_refuses(
    records: str, more: list[str], make_study: Callable[..., Ledger], tmp_path: Path
) -> None:
    first, second = make_study(), make_study(data={"task": "classify"})
    before = sorted(tmp_path.rglob("*"))
    words = ["report", str(first.folder), str(second.folder), "--records", str(tmp_path / records), *more]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, StudyError)
    good = CliRunner().invoke(app, [*words[:4], str(tmp_path / "runs.csv"), *more])
    assert isinstance(good.exception, StudyError), "two tasks cannot be compared"
    assert sorted(tmp_path.rglob("*")) == before
