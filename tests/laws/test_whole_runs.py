"""Laws 12 and 22 in the record of a whole run: text in, prepared, trained by the product's own stages."""

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_studies import FolderOf, first_trial, small_study
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import tunewise.lab.run.training
from tunewise.desk.report.terminal.check import Checked, print_check
from tunewise.lab.train.loop import Loop, train

# not Qwen2: transformers does not read the words of our small tokenizer from the folder of one
MODELS = [("stories260k", "sft"), ("tiny", "sft"), ("llama", "sft"), ("bert", "classify"), ("roberta", "classify")]
ENCODERS = ("bert", "roberta")


def learned(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("name", "task"), MODELS)
def test_law_12_the_seed_of_a_run_is_set_before_anything_is_drawn(
    name: str, task: str, folder_of: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 12: two runs of one seed begin with the same adapter and head, whatever ran before; another seed's differ."""
    hashes: list[str] = []

    def hash_and_train(model: torch.nn.Module, steps: Any, loop: Loop) -> Iterator[Any]:
        content = hashlib.sha256()
        for key, p in sorted(learned(model).items()):
            content.update(key.encode() + p.detach().numpy().tobytes())
        hashes.append(content.hexdigest())
        return train(model, steps, loop)

    monkeypatch.setattr(tunewise.lab.run.training, "train", hash_and_train)
    short = {"max_steps": 1, "batch_size": 4, "evaluations": 1, "head_learning_rate": 0.01}
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(100 + number)  # whatever ran before
        first_trial(tmp_path / str(number), folder_of(name), task, {"method": "lora"}, seed=seed, train=short)
    assert hashes[0] == hashes[1], "same seed"
    assert hashes[0] != hashes[2], "other seed"


def in_bf16(folder: Path, name: str, to: Path) -> Path:
    """The checkpoint with every weight stored in bf16."""
    auto = AutoModelForMaskedLM if name in ENCODERS else AutoModelForCausalLM
    auto.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(to)
    for file in folder.glob("*token*"):
        (to / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("name", "task"), MODELS)
def test_law_22_the_record_tells_how_many_updates_were_stored(
    name: str, task: str, method: str, folder_of: FolderOf, tmp_path: Path
) -> None:
    """Law 22: from a bf16 checkpoint and in mixed precision, at a rate of 1e-5, the record says that nearly every
    weight with an update other than 0, decay apart, changed: its master is fp32."""
    folder = in_bf16(folder_of(name), name, tmp_path / "bf16")
    machine = {"device": "cpu", "precision": "bf16", "threads": 1}
    record = first_trial(tmp_path, folder, task, {"method": method, "learning_rate": 1e-5}, machine=machine)
    assert record.updates_kept is not None
    assert 0.95 < record.updates_kept <= 1


def test_laws_21_and_23_decay_and_scale_are_printed_before_anything_trains(folder_of: FolderOf, tmp_path: Path) -> None:
    """Laws 21 and 23: `check` prints the policy of the weight decay, and the LoRA scale that acts, peft's own too."""
    method = {"method": "peft", "type": "LORA", "options": {"r": 64, "target_modules": "c_fc"}}
    decay = {"max_steps": 2, "weight_decay": 0.07}
    small = small_study(tmp_path, folder_of("tiny"), "sft", {"arm": {"learning_rate": 1e-3, **method}}, train=decay)
    console = Console(width=200, file=io.StringIO(), record=True)
    print_check(Checked(small.study, small.data, None), console)
    printed = " ".join(console.export_text().split())
    assert "weight decay 0.07 on matrices, none on biases and norms, in every arm" in printed
    assert re.search(r"\barm .* 0\.125 0\.001\b", printed), "alpha 8 over rank 64, then the rate"
