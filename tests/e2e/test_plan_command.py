"""`tunewise plan` as its users call it: no network, no weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GPT2 = ("plan", "--model", "gpt2", "--arm", "lora=lora,rank=8,targets=qkv")
SMALL = ("--set", "data.max_length=8", "--set", "train.batch_size=2")


def tunewise(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunewise", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_a_well_known_model_is_planned_by_its_name_and_nothing_is_left_behind(tmp_path: Path) -> None:
    done = tunewise(*GPT2, *SMALL, "--gpu", "l4", "--svg", "memory.svg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("294,912", "0.2364%", "checked", "on L4"):
        assert words in done.stdout, words
    assert "<svg" in (tmp_path / "memory.svg").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["memory.svg"]


@pytest.mark.slow
def test_a_study_of_data_is_planned_from_its_examples_as_json(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"text {n} " * (n % 4 + 1), "label": "ab"[n % 2]}) + "\n" for n in range(60))
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    done = tunewise("plan", "--model", "tiny", "--data", "rows.jsonl", "--arm", "head=head", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["task"] == "classify"
    assert 30 < plan["work"]["num_rows"] < 60  # valid and test are split off
    assert plan["arms"]["head"]["tuned"]["trainable_parameters"] == 2 * 256
    assert plan["arms"]["head"]["step"]["gradients"] <= 4 * 2 * 256
    assert plan["arms"]["head"]["speed"]["source"] == "steps"
    assert 0 < plan["seconds"]["least"] < plan["seconds"]["most"]


def test_an_unknown_card_is_the_users_mistake_and_told_at_once(tmp_path: Path) -> None:
    done = tunewise(*GPT2, "--gpu", "A100-80", cwd=tmp_path)
    assert done.returncode == 2
    assert "Did you mean 'A100-80GB'" in done.stderr
