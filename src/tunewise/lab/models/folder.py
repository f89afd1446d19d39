"""Check of a model's files: which ones are read, and that every file name in them is allowed.

A folder from others names files in its index of shards and in its configurations. Such a name must be the plain name of
a file inside the folder, and weights must be safetensors. Exactly the allowed files are hashed and loaded.
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
# Keys with which a file names other files -> the file.
OTHER_CONFIGS = "configuration_files"
NAMING = {OTHER_CONFIGS: CONFIG, "fast_tokenizer_files": "tokenizer_config.json"}
# Files with which tools mark quantized weights, if config.json does not.
ROUNDING_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

Find = Callable[[str], Path | None]  # path of a model's file by its name; None: the model has no such file


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors that are loaded, according to the index that names them. Raises ModelError for anything else.

    `name`: of the model, for messages. For the folder of an adapter: the adapter's file.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        if any((folder / whole).is_file() for whole in (WEIGHTS, INDEX)):
            raise ModelError(
                f"'{name}' contains both a whole model and an adapter, which is ambiguous. Move "
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


def checkpoint(source: str, name: str) -> list[Path]:
    """The safetensors of a model in a folder or on the hub, from which they are fetched. Raises ModelError."""
    if Path(source).is_dir():
        return [file for file in weight_files(Path(source), name) if file.suffix == ".safetensors"]
    index = _on_hub(source, INDEX)
    files = [WEIGHTS] if index is None else index_shards(index, name)
    return [found for file in files if (found := _on_hub(source, file)) is not None]


def index_shards(index: Path, name: str) -> list[str]:
    """Names of the shards in an index, each allowed. Raises ModelError."""
    shards = _keys(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise ModelError(
            f"{index.name} of '{name}' has no weight_map that names a file for every tensor. Download it again."
        )
    return [_allowed(shard, name, index.name) for shard in sorted(set(shards.values()))]


def require_plain_base(name: str, source: str) -> None:
    """Raise ModelError for a base with an adapter in its folder, and for one whose files name files elsewhere.

    `source`: a folder, or the id of a model on the hub, of which only the small files are fetched.
    """
    folder = Path(source)
    find: Find = (lambda file: folder / file) if folder.is_dir() else (lambda file: _on_hub(source, file))
    if (adapter := find(ADAPTER_CONFIG)) is not None and adapter.is_file():
        raise ModelError(
            f"model '{name}' has an {ADAPTER_CONFIG}, so an adapter would silently be loaded onto the base. "
            "The base must be a whole model. Move the adapter into a folder of its own and name it as an arm: "
            "--arm theirs=existing,path=FOLDER. If it is merged into the weights, delete its files."
        )
    for key, file in NAMING.items():
        names = _keys(find(file)).get(key)
        for other in names if isinstance(names, list) else []:
            _allowed(other, name, file, ends=".json")
    if not folder.is_dir() and (index := find(INDEX)) is not None:
        index_shards(index, name)


def configuration_files(folder: Path) -> list[Path]:
    """Configurations that determine what the weights compute, in a fixed order."""
    others = _keys(folder / CONFIG).get(OTHER_CONFIGS)
    more = sorted({other for other in others if isinstance(other, str)}) if isinstance(others, list) else []
    return [folder / file for file in (CONFIG, ADAPTER_CONFIG, *more) if (folder / file).is_file()]


def rounding_file(source: str) -> str | None:
    """Name of a file that marks the weights as quantized; None if there is none."""
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
            " Pickled weights are not loaded, because a pickle can run code. Load them where you trust them and call "
            "`model.save_pretrained(folder)`."
        )
    )
    raise ModelError(
        f"{file} of model '{name}' names the file {str(given)[:200]!r}, which is "
        f"{'outside its folder' if is_outside else f'not a {ends} file'}. Allowed are plain names ending in {ends} "
        f"of files in the same folder.{why}"
    )


def _keys(path: Path | None) -> dict[str, Any]:
    """Contents of a JSON file, if it can be read and holds keys; otherwise the libraries report the error."""
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
    except (OSError, ValueError):  # a missing model is reported when it is loaded
        return None
    return None if found is None else Path(found)


def _no_safetensors(folder: Path, name: str, named: Path | None) -> ModelError:
    if named is not None:
        return ModelError(f"{CONFIG} of '{name}' names {named.name}, which is not in the folder. Download it again.")
    if any(folder.glob("*.gguf")):
        return ModelError(f"'{name}' contains no safetensors, but quantized weights in GGUF. Name the original model.")
    lone = next((path.name for kind in PICKLES for path in sorted(folder.glob(kind))), None)
    found = f", but only {lone}" if lone else ""
    return ModelError(
        f"cannot load the weights of model '{name}': it contains no safetensors{found}. Pickled weights are "
        "not loaded, because a pickle can run code. Load them where you trust them and call "
        "`model.save_pretrained(folder)`."
    )
