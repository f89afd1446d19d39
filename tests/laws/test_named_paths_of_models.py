"""Law 41 for models: a path that is read because a file said so stays inside, is of an allowed kind, and is hashed."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunewise.errors import ModelError
from tunewise.lab.models.fingerprints import FileHashes
from tunewise.lab.models.folder import INDEX
from tunewise.lab.models.load import load_base, load_config, load_tokenizer

Folder = Callable[[str], Path]


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def sharded(folder: Path, names: dict[str, str] | None = None) -> Path:
    """The model with its tensors in two shards; `names` are what its index calls them."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    of_shard = {key: f"{int('.1.' in key)}.safetensors" for key in tensors}
    for shard in set(of_shard.values()):
        parts = {key: tensor for key, tensor in tensors.items() if of_shard[key] == shard}
        save_file(parts, folder / shard, metadata={"format": "pt"})
    called = {key: (names or {}).get(shard, shard) for key, shard in of_shard.items()}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": called}), encoding="utf-8")
    return folder


def set_keys(file: Path, **keys: Any) -> None:
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**known, **keys}), encoding="utf-8")


def load(folder: Path) -> Any:
    config = load_config(str(folder), "sft", False)
    return load_base(str(folder), "sft", (), load_tokenizer(str(folder), config, False), False)


def hash_of(folder: Path) -> str:
    return FileHashes(folder.parent / "hashes.json").of_model(str(folder), load_config(str(folder), "sft", False))


@pytest.fixture
def copy(model_folder: Folder, tmp_path: Path) -> Path:
    """A model that the test may change."""
    return shutil.copytree(model_folder("llama"), tmp_path / "m")


BAD_NAMES = ["../m/1.safetensors", "/etc/passwd", "evil.bin", "sub/1.safetensors", "..", "", "a\\1.safetensors", "1.pt"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_law_41_an_index_that_leads_elsewhere_or_to_a_pickle_is_refused_by_hash_and_load(name: str, copy: Path) -> None:
    mark = copy.parent / "owned"
    with (copy / "evil.bin").open("wb") as file:
        pickle.dump({"lm_head.weight": Trap(mark)}, file)
    sharded(copy, {"1.safetensors": name})
    for take in (hash_of, load):
        with pytest.raises(ModelError, match=r"model.safetensors.index.json of model .* names the file"):
            take(copy)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../x.safetensors", "weights.bin", "adapter_model.bin"])
def test_law_41_a_configuration_names_no_weights_elsewhere(name: str, copy: Path) -> None:
    set_keys(copy / "config.json", transformers_weights=name)
    for take in (hash_of, load):
        with pytest.raises(ModelError, match=r"config.json of model .* names the file"):
            take(copy)


@pytest.mark.parametrize(
    ("file", "key"), [("config.json", "configuration_files"), ("tokenizer_config.json", "fast_tokenizer_files")]
)
def test_law_41_no_other_file_of_a_model_is_named_outside_of_its_folder(file: str, key: str, copy: Path) -> None:
    set_keys(copy / file, **{key: ["config.4.0.0.json", "../other/config.4.1.0.json"]})
    with pytest.raises(ModelError, match=rf"{file} of model .* names the file '../other/config.4.1.0.json'"):
        load(copy)


def test_law_41_every_shard_that_is_loaded_is_in_the_fingerprint_and_nothing_that_lies_around(copy: Path) -> None:
    sharded(copy)
    before = hash_of(copy)
    assert load(copy).new_parameters == ()
    save_file({"x": torch.zeros(1)}, copy / "spare.safetensors")
    (copy / "checkpoint-7").mkdir()
    save_file({"x": torch.zeros(1)}, copy / "checkpoint-7" / "model.safetensors")
    assert hash_of(copy) == before, "what is not loaded does not decide"
    for shard in ("0.safetensors", "1.safetensors"):
        tensors = load_file(copy / shard)
        save_file({key: tensor + 1 for key, tensor in tensors.items()}, copy / shard, metadata={"format": "pt"})
        changed = hash_of(copy)
        assert changed != before, shard
        before = changed


def test_law_41_an_index_names_shards_that_are_there(copy: Path) -> None:
    (sharded(copy) / "1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"names 1.safetensors, which is not in the folder \(1 of 2"):
        load(copy)
    (copy / INDEX).write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="has no weight_map"):
        load(copy)


def test_law_41_an_adapter_beside_a_base_is_put_on_nothing(copy: Path) -> None:
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    with pytest.raises(ModelError, match=r"has an adapter_config.json.*--arm theirs=existing"):
        load(copy)
    save_file({"x": torch.zeros(1)}, copy / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="both a whole model and an adapter"):
        FileHashes(copy.parent / "hashes.json").of_weights(copy)


def test_law_41_a_model_of_the_hub_passes_the_same_gate(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunewise.lab.models import folder as model_folder

    sharded(copy, {"1.safetensors": "evil.bin"})
    monkeypatch.setattr(
        model_folder, "cached_file", lambda source, file, **_: str(copy / file) if (copy / file).is_file() else None
    )
    with pytest.raises(ModelError, match="names the file 'evil.bin'"):
        model_folder.require_plain_base("org/name", "org/name")
