"""The gate for a model's files: which ones are read, and that every name which a file gives is one that may be read.

A folder of others names files in its index of shards and in its configurations. Such a name must be a plain name of a
file inside the folder, and weights must be safetensors. What passes is what is hashed, so what is loaded is what the
fingerprint tells.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from tunewise.adapter.config import CONFIG as ADAPTER_CONFIG
from tunewise.adapter.config import WEIGHTS as ADAPTER_WEIGHTS
from tunewise.errors import ModelError
from tunewise.storage.files import read_text

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PLAIN_NAME = re.compile(r"[^/\\\x00-\x1f]{1,255}")
# Keys of a file by which it names other files -> the file.
OTHER_CONFIGS = "configuration_files"
NAMING = {OTHER_CONFIGS: CONFIG, "fast_tokenizer_files": "tokenizer_config.json"}
# Files by which tools say that they rounded the weights, where config.json does not say it.
ROUNDING_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

Find = Callable[[str], Path | None]  # a file of the model by its name; None: the model has none of this name


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors that are loaded, after the index that names them. Raises ModelError for anything else.

    `name`: of the model, for messages. The folder of an adapter gives the adapter's file.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        if any((folder / whole).is_file() for whole in (WEIGHTS, INDEX)):
            raise ModelError(
                f"'{name}' holds both a whole model and an adapter, so it does not say which of them is meant. Move "
                f"the adapter ({ADAPTER_CONFIG}, {ADAPTER_WEIGHTS}) into a folder of its own."
            )
        return [folder / ADAPTER_WEIGHTS]
    named = _keys(folder / CONFIG).get("transformers_weights")
    first = folder / _allowed(named, name, CONFIG) if named is not None else folder / WEIGHTS
    if named is None and not first.is_file():
        first = folder / INDEX
    if not first.is_file():
        raise _no_safetensors(folder, name, first if named is not None else None)
    if not first.name.endswith(".index.json"):
        return [first]
    shards = [folder / shard for shard in index_shards(first, name)]
    if lost := [shard.name for shard in shards if not shard.is_file()]:
        raise ModelError(
            f"{first.name} of '{name}' names {lost[0]}, which is not in the folder ({len(lost)} of {len(shards)} such "
            "files). Download the folder again."
        )
    return sorted([first, *shards])


def index_shards(index: Path, name: str) -> list[str]:
    """The names of the shards that an index gives, each allowed. Raises ModelError."""
    shards = _keys(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise ModelError(
            f"{index.name} of '{name}' has no weight_map that names a file for every tensor. Download it again."
        )
    return [_allowed(shard, name, index.name) for shard in sorted(set(shards.values()))]


def require_plain_base(name: str, source: str) -> None:
    """Raises ModelError for a base with an adapter beside it, and for one whose files name files elsewhere.

    `source`: a folder, or the id of a model on the hub, of which only the small files are asked for.
    """
    folder = Path(source)
    find: Find = (lambda file: folder / file) if folder.is_dir() else (lambda file: _on_hub(source, file))
    if (adapter := find(ADAPTER_CONFIG)) is not None and adapter.is_file():
        raise ModelError(
            f"model '{name}' has an {ADAPTER_CONFIG}, by which an adapter would be put on the base without a word. "
            "A base is a whole model. Move the adapter into a folder of its own and name it as an arm: "
            "--arm theirs=existing,path=FOLDER. If it is merged into the weights, delete its files."
        )
    for key, file in NAMING.items():
        names = _keys(find(file)).get(key)
        for other in names if isinstance(names, list) else []:
            _allowed(other, name, file, ends=".json")
    if not folder.is_dir() and (index := find(INDEX)) is not None:
        index_shards(index, name)


def configuration_files(folder: Path) -> list[Path]:
    """The configurations that decide what the weights compute, in a fixed order."""
    others = _keys(folder / CONFIG).get(OTHER_CONFIGS)
    more = sorted({other for other in others if isinstance(other, str)}) if isinstance(others, list) else []
    return [folder / file for file in (CONFIG, ADAPTER_CONFIG, *more) if (folder / file).is_file()]


def rounding_file(source: str) -> str | None:
    """The name of a file beside the weights that says that they were rounded; None: there is none."""
    return next((file for file in ROUNDING_FILES if (Path(source) / file).is_file()), None)


def _allowed(given: object, name: str, file: str, ends: str = ".safetensors") -> str:
    """The name that `file` gives, if it is of a file in the same folder and of an allowed kind."""
    kinds = (ends, f"{ends}.index.json") if file == CONFIG else (ends,)
    if isinstance(given, str) and PLAIN_NAME.fullmatch(given) and given.endswith(kinds):
        return given
    is_outside = "/" in str(given) or "\\" in str(given)
    why = (
        ""
        if ends == ".json"
        else (
            " Pickled weights are not loaded, because a pickle can run code: load them where you trust them and call "
            "`model.save_pretrained(folder)`."
        )
    )
    raise ModelError(
        f"{file} of model '{name}' names the file {str(given)[:200]!r}, which is "
        f"{'outside of its folder' if is_outside else f'not a {ends} file'}. Allowed are plain names ending in {ends} "
        f"of files in the same folder.{why}"
    )


def _keys(path: Path | None) -> dict[str, Any]:
    """What a JSON file holds, if it can be read and holds keys; the libraries say what is wrong with it otherwise."""
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _on_hub(source: str, file: str) -> Path | None:
    try:
        found = cached_file(
            source,
            file,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):  # the model itself cannot be had, as whoever loads it is told
        return None
    return None if found is None else Path(found)


def _no_safetensors(folder: Path, name: str, named: Path | None) -> ModelError:
    if named is not None:
        return ModelError(f"{CONFIG} of '{name}' names {named.name}, which is not in the folder. Download it again.")
    if any(folder.glob("*.gguf")):
        return ModelError(f"'{name}' holds no safetensors, but weights in GGUF, which are rounded. Name the original.")
    lone = next((path.name for kind in PICKLES for path in sorted(folder.glob(kind))), None)
    found = f", but only {lone}" if lone else ""
    return ModelError(
        f"cannot load the weights of model '{name}': it holds no safetensors{found}. Pickled weights are "
        "not loaded, because a pickle can run code: load them where you trust them and call "
        "`model.save_pretrained(folder)`."
    )
