"""What trainers leave beside a model is read as plain data, and never a pickle."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunewise.desk.judge.findings import findings_on
from tunewise.errors import DataError
from tunewise.inputs.logs.find import with_labels
from tunewise.inputs.logs.log import RunLog
from tunewise.inputs.training import NOTHING_LEFT, training_of

STATE = {  # as the Trainer of transformers 5 writes it
    "global_step": 30,
    "num_train_epochs": 3,
    "train_batch_size": 8,
    "log_history": [
        {"epoch": 1.0, "learning_rate": 1e-05, "loss": 2.5, "step": 10, "grad_norm": 1.0},
        {"epoch": 2.0, "learning_rate": 0.0002, "loss": 1.5, "step": 20},
        {"epoch": 2.0, "eval_loss": 1.4, "step": 20},
        {"epoch": 3.0, "learning_rate": 0.0001, "loss": 1.0, "step": 30},
    ],
}


def left(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_steps_rates_batches_seeds_and_the_loss_curve_are_read(tmp_path: Path) -> None:
    found = training_of(
        left(
            tmp_path,
            trainer_state__json=STATE,
            adapter_config__json={"r": 16, "lora_alpha": 32, "target_modules": ["q_proj"]},
            args__json={"learning_rate": 0.0003, "seed": 7, "gradient_accumulation_steps": 4},
        )
    )
    assert found.settings == {
        "epochs": "3",
        "batch size": "8",
        "learning rate": "0.0003",  # what was asked for, rather than the highest one logged
        "steps": "30",
        "rank": "16",
        "alpha": "32",
        "seed": "7",
        "accumulation": "4",
    }
    assert found.losses == ((10, 2.5), (20, 1.5), (30, 1.0))
    assert set(found.sources) == {"trainer_state.json", "adapter_config.json", "args.json"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("axolotl_config__yaml", "learning_rate: 0.0002\nmicro_batch_size: 2\nnum_epochs: 4\nseed: 42\n"),
        (
            "training_args__yaml",
            "learning_rate: 2.0e-4\nper_device_train_batch_size: 2\nnum_train_epochs: 4\nseed: 42\n",
        ),
        (
            "axolotl_config__yml",
            "learning_rate: 2e-4\nmicro_batch_size: 2\nnum_epochs: 4\nseed: 42\n",
        ),  # a word in YAML
        (
            "args__json",
            '{"learning_rate": 0.0002, "per_device_train_batch_size": 2, "num_train_epochs": 4, "seed": 42}',
        ),
    ],
)
def test_each_trainer_has_its_own_names_for_the_same(tmp_path: Path, name: str, text: str) -> None:
    found = training_of(left(tmp_path, **{name: text}))
    assert found.settings == {"learning rate": "0.0002", "batch size": "2", "epochs": "4", "seed": "42"}


def test_a_pickle_is_not_even_opened(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")
    (tmp_path / "training_args.bin").chmod(0)
    assert training_of(tmp_path) == NOTHING_LEFT


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = left(tmp_path / "elsewhere", args__json={"seed": 1}) / "args.json"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "args.json").symlink_to(secret)
    assert training_of(tmp_path / "model") == NOTHING_LEFT


@pytest.mark.parametrize("content", ["{", "[1]", "a: [", "!!python/object/apply:os.system ['true']"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    name = "args.json" if content in ("{", "[1]") else "training_args.yaml"
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=name):
        training_of(tmp_path)


def test_odd_values_are_left_out(tmp_path: Path) -> None:
    state = {"global_step": True, "log_history": [1, {"step": "x", "loss": 1}, {"step": 1, "loss": float("nan")}]}
    assert training_of(left(tmp_path, trainer_state__json=state)).settings == {}


HUGE = "1" + "0" * 400  # a whole number that no float holds


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("trainer_state__json", f'{{"global_step": {HUGE}, "log_history": [{{"step": {HUGE}, "loss": {HUGE}}}]}}'),
        ("args__json", f'{{"learning_rate": {HUGE}, "seed": true, "num_train_epochs": NaN}}'),
        ("args__yaml", f"seed: 0x{'f' * 4000}\nlearning_rate: .inf\n"),
    ],
)
def test_a_number_that_is_too_large_is_left_out(tmp_path: Path, name: str, text: str) -> None:
    found = training_of(left(tmp_path, **{name: text}))
    assert (found.settings, found.losses) == ({}, ())


def run_of(tmp_path: Path, name: str, **arguments: Any) -> RunLog:
    training = training_of(left(tmp_path / name, args__json=arguments))
    return RunLog(name=name, seed=None, tasks={}, training=training)


def test_a_shared_rate_and_unequal_training_are_findings(tmp_path: Path) -> None:
    full = run_of(tmp_path, "full", learning_rate=2e-4, num_train_epochs=3)
    lora = run_of(tmp_path, "lora", learning_rate=2e-4, num_train_epochs=1)
    found = {finding.id: finding for finding in findings_on({"full": [full], "lora": [lora]}, (), {})}
    assert found["other-training"].evidence == "epochs: 1 against 3"
    assert found["same-rate"].evidence == "learning rate 0.0002"
    assert "epochs 3" in found["trained-elsewhere"].evidence
    apart = findings_on({"full": [full], "lora": [run_of(tmp_path, "other", learning_rate=2e-3)]}, (), {})
    assert not {"same-rate", "other-training"} & {finding.id for finding in apart}


def test_seeds_that_trainers_left_are_the_labels_of_runs(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, f"folder-{place}", seed=seed) for place, seed in enumerate((30, 10, 20))]
    assert [run.seed for run in with_labels(runs, "lora")] == ["30", "10", "20"]
    same = [run_of(tmp_path, f"same-{place}", seed=1) for place in (4, 5, 6)]
    assert [run.seed for run in with_labels(same, "lora")] == ["4", "5", "6"], "else the numbers of their folders"
