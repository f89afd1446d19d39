"""Two study folders are the same study to the bit, or every difference is named; times and memory may differ."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare_studies.py"
RECORD = {"run_id": "a", "num_steps": 2, "usage": {"train_seconds": 1.5}, "files": {"steps.jsonl": "x", "log.txt": "y"}}
REPORT = {
    "headline": "worse by 0.1; a run takes 3 min",
    "warnings": [{"id": "busy-machine"}, {"id": "few-seeds"}],
    "arms": [{"name": "full", "train_seconds": 1.5, "trainable_parameters": 10}],
}


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_studies", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    before, after = tmp_path / "before", tmp_path / "after"
    run = before / "runs" / "a"
    (run / "weights").mkdir(parents=True)
    (run / "record.json").write_text(json.dumps(RECORD))
    (run / "scores.parquet").write_bytes(b"scores")
    (run / "steps.jsonl").write_text('{"step": 1, "loss": 2.5, "seconds": 0.1}\n')
    (run / "weights" / "model.safetensors").write_bytes(b"weights")
    (before / "report.json").write_text(json.dumps(REPORT))
    shutil.copytree(before, after)
    return before, after


def test_times_memory_and_what_follows_from_them_may_differ(folders: tuple[Path, Path]) -> None:
    before, after = folders
    edit(
        after / "runs/a/record.json", lambda r: r["usage"].update(train_seconds=9) or r["files"].update({"log.txt": 0})
    )
    edit(after / "report.json", lambda r: r["warnings"].pop(0) and r.update(headline="worse by 0.1; a run takes 5 min"))
    (after / "runs/a/steps.jsonl").write_text('{"step": 1, "loss": 2.5, "seconds": 0.2}\n')
    assert list(load().differences(before, after)) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: edit(folder / "runs/a/record.json", lambda r: r.update(num_steps=3)), "record.json.num_steps"),
        (lambda folder: edit(folder / "report.json", lambda r: r.update(headline="better")), "report.json.headline"),
        (lambda folder: edit(folder / "report.json", lambda r: r["warnings"].pop()), "report.json.warnings"),
        (lambda folder: (folder / "runs/a/scores.parquet").write_bytes(b"scores2"), "scores.parquet: other bytes"),
        (lambda folder: (folder / "runs/a/weights/model.safetensors").write_bytes(b"w"), "model.safetensors"),
        (lambda folder: (folder / "runs/a/weights/model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "runs/a/steps.jsonl").write_text('{"step": 1, "loss": 2.6}\n'), "from step 1 on"),
        (lambda folder: shutil.copytree(folder / "runs/a", folder / "runs/b"), "run b"),
    ],
)
def test_every_other_difference_is_named(
    folders: tuple[Path, Path], change: Callable[[Path], object], named: str
) -> None:
    before, after = folders
    change(after)
    assert any(named in line for line in load().differences(before, after))
