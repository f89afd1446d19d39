"""The example script, which does not use tunewise, ends at the test loss of tunewise with the same settings."""

import ast
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tunewise.desk.metrics.metrics import compute
from tunewise.desk.metrics.scores import read_scores
from tunewise.desk.protocol.resolve import resolve
from tunewise.desk.protocol.schedule import next_runs
from tunewise.lab.data.sources.tickets import tickets
from tunewise.lab.models.load import BUNDLED
from tunewise.lab.prepare import prepare
from tunewise.lab.run.story import Run
from tunewise.records import RunRecord
from tunewise.spec import StudySpec
from tunewise.storage.ledger import Ledger

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = str(BUNDLED["tiny"])
RATE, RANK, BATCH = 3e-3, 4, 8
# fp32 has a unit roundoff of 6e-8. The script sums a step's loss in one batch and tunewise in several; three steps of
# AdamW, which divides gradients by their own size, make a few 1e-6 of that (measured: 1.4e-6).
TOLERANCE = 1e-5


def rows_of(task: str) -> list[dict[str, str]]:
    """48 tickets: pairs, texts, or texts with the team that answers."""
    made: list[dict[str, Any]] = []
    for row, _ in zip(tickets(), range(48), strict=False):
        team = row["completion"].split()[1].strip(".")
        whole = {"text": f"{row['prompt']} {row['completion']}"}
        made.append({"sft": row, "lm": whole, "classify": {"text": row["prompt"], "label": team}}[task])
    return made


def by_tunewise(task: str, folder: Path) -> dict[str, tuple[RunRecord, float]]:
    """Confirmed runs of a study at one fixed rate, and their test losses."""
    asked = StudySpec.model_validate(
        {
            "name": "same",
            "model": TINY,
            "task": task,
            "data": {split: str(folder / f"{split}.jsonl") for split in ("train", "valid", "test")},
            "arms": {
                "full": {"method": "full", "learning_rate": RATE},
                "lora": {"method": "lora", "rank": RANK, "learning_rate": RATE},
            },
            "train": {"epochs": 1, "batch_size": BATCH, "evaluations": 1, "head_learning_rate": RATE},
            "tuning": {"rates": 1, "cap": 1},
            "looks": [1],
            "checkpoint": "last",
            "samples": {"count": 0},
            "forgetting": {"tokens": 0},
            "machine": {"threads": 1, "precision": "fp32"},
        }
    )
    ledger = Ledger(folder / "study")
    ledger.create()
    data = ledger.data_folder(prepare(asked, folder / "study" / "data"))
    study, records = resolve(asked, ledger.data_summary()), list[RunRecord]()
    while runs := next_runs(study, ledger.data_summary(), records, ()):
        records += [Run(spec, ledger.begin(spec), data, lambda event: None).execute() for spec in runs]
    confirmed = [record for record in records if record.spec.role == "confirm"]
    return {r.spec.arm: (r, compute("nll", read_scores(ledger.scores_path(r.run_id), "test"))) for r in confirmed}


def by_script(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Result of `python examples/finetune_lora.py ARGUMENTS`, without starting a Python for it."""
    words = [str(word) for name, value in arguments.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["finetune_lora.py", *words])
    runpy.run_path(str(EXAMPLES / "finetune_lora.py"), run_name="__main__")
    result: dict[str, Any] = json.loads((arguments["out"] / "result.json").read_text(encoding="utf-8"))
    return result


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sft", "lm", "classify"])
def test_the_script_and_tunewise_end_at_the_same_test_loss(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(task)
    for split, part in {"train": rows[:24], "valid": rows[24:30], "test": rows[30:]}.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    losses = []
    for method, (record, nll) in by_tunewise(task, tmp_path).items():
        if method not in ("full", "lora"):
            continue  # the head alone, which every classification has
        settings = {
            "model": TINY,
            "data": tmp_path,
            "method": method,
            "rank": RANK,
            "lr": RATE,
            "seed": record.spec.seed,
        }
        training = {"epochs": 1, "batch-size": BATCH, "max-length": 512, "out": tmp_path / method}
        result = by_script({**settings, **training}, monkeypatch)
        assert record.tuned is not None
        assert result["trainable_parameters"] == record.tuned.trainable_parameters
        assert result["nll"] == pytest.approx(nll, rel=TOLERANCE)
        losses.append(nll)
    assert abs(losses[0] - losses[1]) > 100 * TOLERANCE, "or the two methods could not be told apart"
    monkeypatch.setattr(sys, "argv", ["compare.py", str(tmp_path / "full"), str(tmp_path / "lora")])
    said: list[str] = []
    runpy.run_path(str(EXAMPLES / "compare.py"), {"print": said.append}, run_name="__main__")
    assert [line.split()[0] for line in said[0].splitlines()][:3] == ["method", "learning_rate", "nll"]
    assert f"{losses[0]:.4f}" in said[0]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_does_without_tunewise(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 150
    nodes = list(ast.walk(ast.parse(source)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.startswith("tunewise")}


def test_scores_of_inspect_are_means_over_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for its samples: its package is not needed for tests."""
    worth = {"C": 1.0, "P": 0.5, "I": 0.0}
    monkeypatch.setitem(sys.modules, "inspect_ai", ModuleType("inspect_ai"))
    monkeypatch.setitem(sys.modules, "inspect_ai.scorer", SimpleNamespace(value_to_float=lambda: worth.__getitem__))
    scores = runpy.run_path(str(EXAMPLES / "inspect_scores.py"))["scores"]
    tried = [("q1", 1, "C"), ("q2", 1, "I"), ("q1", 2, "I"), ("q2", 2, "P")]
    samples = [
        SimpleNamespace(id=item, epoch=epoch, scores={"match": SimpleNamespace(value=value)})
        for item, epoch, value in tried
    ]
    assert scores(samples, "match") == {"q1": 0.5, "q2": 0.25}
    with pytest.raises(SystemExit, match="item q1, epoch 1: no score includes. It has: match"):
        scores(samples, "includes")
