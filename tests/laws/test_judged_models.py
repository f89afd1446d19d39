"""`tunewise judge --model --data`: models that others trained are scored, each once, and judged by seed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunewise.assets import ASSETS
from tunewise.commands.judge import arms_of
from tunewise.commands.judge_models import Asked, judge_models
from tunewise.desk.metrics.metrics import compute
from tunewise.desk.study.state import StudyState
from tunewise.errors import SpecError, UserError
from tunewise.storage.ledger import Ledger

SEEDS = (1, 2, 3)


def tuned(folder: Path, noise: float, seed: int) -> Path:
    """The bundled base with noise, as another tool would leave it."""
    shutil.copytree(ASSETS / "tiny", folder)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: (w.float() + noise * torch.randn(w.shape, generator=generator)).to(w.dtype)
        for name, w in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "args.json").write_text(json.dumps({"learning_rate": 1e-4, "seed": seed}))
    return folder


@pytest.fixture
def test_rows(tmp_path: Path) -> Path:
    rows = [{"prompt": f"question {place}", "completion": f"answer {place * place}"} for place in range(30)]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_law_64_tuned_models_are_scored_once_each_and_judged_by_the_seeds_of_their_trainers(
    tmp_path: Path, test_rows: Path
) -> None:
    full = [tuned(tmp_path / f"full-{'abc'[seed - 1]}", 0.001, seed) for seed in SEEDS]
    lora = [tuned(tmp_path / f"lora-{'xyz'[seed - 1]}", 0.02, seed) for seed in reversed(SEEDS)]
    asked = Asked("tiny", str(test_rows), {"full": full, "lora": lora}, {})
    report = judge_models(asked, tmp_path / "out", "0.5")
    state = StudyState.read(Ledger.open(tmp_path / "out"))
    means = {
        arm: [compute("nll", state.scores(state.confirmed[f"{arm}-{place}"])[0]) for place in (1, 2, 3)]
        for arm in asked.arms
    }
    (verdict,) = report.verdicts
    assert verdict.seeds == "paired"
    assert [run.seed for run in report.runs] == ["1", "2", "3", "3", "2", "1"]
    assert verdict.difference == pytest.approx(sum(means["lora"]) / 3 - sum(means["full"]) / 3)
    assert verdict.num_rows == 30, "every row of the file is a test row"
    assert {"same-rate", "trained-elsewhere"} <= {finding.id for finding in report.findings}
    assert len(state.records) == 7, "six models and the base"
    again = judge_models(asked, tmp_path / "out", "0.5")
    assert again == report


@pytest.mark.slow
def test_what_cannot_be_scored_is_refused(tmp_path: Path, test_rows: Path) -> None:
    one, other = (tuned(tmp_path / name, 0.001, 1) for name in ("one", "other"))
    with pytest.raises(SpecError, match=r"one and .*other hold the same weights"):
        judge_models(Asked("tiny", str(test_rows), {"full": [one], "lora": [other]}, {}), tmp_path / "out", None)
    with pytest.raises(SpecError, match="no such folder: .*nowhere"):
        judge_models(
            Asked("tiny", str(test_rows), arms_of([one], [f"lora={tmp_path / 'nowhere'}"]), {}), tmp_path / "o", None
        )
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="empty"):
        judge_models(Asked("tiny", str(test_rows), {"full": [one], "lora": [empty]}, {}), tmp_path / "p", None)
