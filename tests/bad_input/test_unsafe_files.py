"""Files of others run no code and reach no file outside a study's folder."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tunewise.adapter.config import require_safe
from tunewise.adapter.file import read_adapter
from tunewise.assets import ASSETS
from tunewise.commands.generate import answers
from tunewise.errors import ModelError, SpecError, StudyError
from tunewise.lab.adapters.load import AdapterFolder
from tunewise.lab.data.sources.sources import read_source
from tunewise.lab.models.fingerprints import FileHashes
from tunewise.lab.models.load import load_base, load_config, load_tokenizer, load_tuned
from tunewise.spec.reading import parse_study
from tunewise.storage.ledger import Ledger

LORA = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "tiny", "task_type": "CAUSAL_LM"}
STUDY = {"name": "s", "data": {"train": "t.jsonl"}}


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What exists once code of a file was run."""
    return tmp_path / "owned"


def adapter(folder: Path, config: dict[str, Any], mark: Path, name: str = "adapter_model.bin") -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with (folder / name).open("wb") as file:
        pickle.dump({"weight": Trap(mark)}, file)
    return folder


def test_the_trap_works(mark: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", LORA, mark)
    with (folder / "adapter_model.bin").open("rb") as file:
        pickle.load(file)
    assert mark.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_a_pickled_adapter_is_refused_wherever_one_is_taken(name: str, mark: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", LORA, mark, name)
    (folder / "other").mkdir()
    save_file({"x": torch.zeros(1)}, folder / "other" / "model.safetensors")  # somewhere below, but not the adapter's
    for take in (read_adapter, lambda f: AdapterFolder.open(f, None), FileHashes(tmp_path / "h.json").of_weights):
        with pytest.raises(ModelError, match=rf"{name}, a pickle, which can run code.*save_pretrained"):
            take(folder)
    assert not mark.exists()


def test_a_pickled_model_is_refused_with_the_way_to_convert_it(mark: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(ASSETS / "tiny", folder)
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": Trap(mark)}, file)
    config = load_config(str(folder), "sft", False)
    with pytest.raises(ModelError, match=r"no safetensors.*can run code.*save_pretrained"):
        FileHashes(tmp_path / "h.json").of_model(str(folder), config)
    tokenizer = load_tokenizer(str(folder), config, False)
    with pytest.raises(ModelError, match=r"cannot load the weights.*save_pretrained"):
        load_base(str(folder), "sft", (), tokenizer, False)
    base = load_base("tiny", "sft", (), tokenizer, False)
    with pytest.raises(ModelError, match="cannot load the weights"):
        load_tuned(base, folder)
    assert not mark.exists()


def test_an_adapter_that_has_a_module_imported_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    config = {**LORA, "megatron_config": {"x": 1}, "megatron_core": "antigravity"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="megatron_config, which makes peft import a module"):
        require_safe(folder)
    arm = {"method": "peft", "type": "LORA", "options": {"megatron_config": {"x": 1}}}
    with pytest.raises(SpecError, match="megatron_config is not allowed"):
        parse_study({**STUDY, "arms": {"a": arm}}, "s.yaml")


@pytest.mark.parametrize("config", [b"[]", b"{}", b"{", b"\xff\xfe", b'"x"'])
def test_a_configuration_that_is_none_is_named(config: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(config)
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="adapter_config.json"):
        AdapterFolder.open(folder, "tiny")


def test_a_data_set_that_is_a_program_is_not_run(mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(f"import os; os.mkdir({str(mark)!r})", encoding="utf-8")
    with pytest.raises(Exception, match=r"cannot be loaded as a dataset|no data"):
        read_source(str(folder), "train", "")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["runs", "data", "best", "figures"])
def test_a_link_in_a_study_folder_leads_nowhere(name: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ledger = Ledger(tmp_path / "study")
    ledger.create()
    ledger.store_study(parse_study({**STUDY, "arms": {"full": {"method": "full"}}}, "s.yaml"))
    path = ledger.folder / name
    if path.exists():
        path.rmdir()
    path.symlink_to(elsewhere)
    with pytest.raises(StudyError, match=rf"{name} is a link. Changing it could change something outside"):
        ledger.create()
    assert not list(elsewhere.iterdir())


def test_a_study_folder_does_not_decide_that_code_of_a_model_is_run(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study")
    ledger.create()
    content = {**STUDY, "arms": {"full": {"method": "full"}}, "trust_remote_code": True}
    ledger.store_study(parse_study(content, "s.yaml"))
    with pytest.raises(StudyError, match="runs code .* add --trust-remote-code"):
        answers(ledger.folder, "prompt", 1)
    with pytest.raises(StudyError, match="holds no prepared data"):
        answers(ledger.folder, "prompt", 1, trust_remote_code=True)


@pytest.mark.parametrize("arm", ["..", "../x", "/tmp/x", "a/b", "a\\b", "a\0", "", ".", "a\n", "~", "a.b"])
def test_no_arm_is_named_by_a_path(arm: str) -> None:
    with pytest.raises(SpecError, match="arm name"):
        parse_study({**STUDY, "arms": {arm: {"method": "full"}}}, "s.yaml")


@pytest.mark.parametrize("name", ["..", "../x", "/tmp/x", "a/b", "", ".", "a\n", "~", "-x"])
def test_no_study_is_named_by_a_path(name: str) -> None:
    with pytest.raises(SpecError, match="'name'"):
        parse_study({**STUDY, "name": name, "arms": {"full": {"method": "full"}}}, "s.yaml")
