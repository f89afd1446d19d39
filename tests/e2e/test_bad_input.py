"""Every mistake of a user ends in one clear message and exit status 2, before anything is trained.

Through the processes that a command starts; tests/bad_input has many more mistakes, in one process.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = [{"prompt": f"say {i}", "completion": f"number {i}"} for i in range(60)]
LABELLED = [{"text": f"text {i}", "label": "even" if i % 2 == 0 else "odd"} for i in range(60)]
OFF = "--set=forgetting.tokens=0"


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def tunewise(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunewise", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


def said(folder: Path, *arguments: str) -> str:
    """The one message that the command ends with; asserts exit status 2 and that it is no traceback."""
    result = tunewise(*arguments, cwd=folder)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" not in result.stdout
    return result.stderr


def test_a_mistake_in_a_study_file_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("data: {train: t.jsonl}\narms: {lora: {method: lora, rnak: 8}}")
    message = said(tmp_path, "compare", "study.yaml")
    assert "arms.lora.rnak" in message
    assert "Did you mean 'rank'" in message


def test_an_unknown_arm_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    message = said(tmp_path, "train", "--model", "tiny", "--data", "train.jsonl", "--only", "lora-r9")
    assert "unknown arm 'lora-r9'" in message
    assert "lora-r8" in message


@pytest.mark.slow
def test_bad_data_is_refused_with_its_file_and_place(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n', encoding="utf-8")
    message = said(tmp_path, "check", "--model", "tiny", "--data", "broken.jsonl", OFF)
    assert "broken.jsonl, line 2: broken JSON" in message


@pytest.mark.slow
def test_a_label_unseen_in_train_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", LABELLED)
    write(folder / "valid.jsonl", [{"text": "another", "label": "even"}])
    write(folder / "test.jsonl", [{"text": "one more", "label": "prime"}])
    message = said(tmp_path, "check", "--model", "tiny", "--data", "data")
    assert "prime" in message


@pytest.mark.slow
def test_a_model_that_cannot_be_tuned_is_refused_by_name(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", GOOD)
    message = said(tmp_path, "check", "--model", str(tmp_path / "nothing"), "--data", data, OFF)
    assert "nothing" in message
    seq2seq = tmp_path / "seq2seq"
    seq2seq.mkdir()
    (seq2seq / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    assert "encoder-decoder" in said(tmp_path, "check", "--model", str(seq2seq), "--data", data, OFF)


@pytest.mark.slow
def test_targets_that_match_nothing_list_the_candidates(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", GOOD)
    arguments = ["--model", "tiny", "--data", data, "--arm", "l=lora,targets=c_atn", OFF]
    message = said(tmp_path, "check", *arguments)
    assert "c_atn" in message
    assert "c_attn" in message


@pytest.mark.slow
def test_a_study_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", GOOD)
    (tmp_path / "taken").write_text("a file, not a folder")
    message = said(tmp_path, "compare", "--model", "tiny", "--data", data, "--out", "taken", OFF)
    assert "cannot write the study folder" in message
