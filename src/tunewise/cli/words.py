"""Turn command-line arguments into a study."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewise.errors import DataError, SpecError
from tunewise.inputs.data_folder import is_saved, is_single_file, split_files, whole
from tunewise.spec.reading import absolute_path, as_name, parse_study, read_study, resolve_paths, set_key
from tunewise.spec.study import ARM_NAME, StudySpec
from tunewise.text.plain_yaml import YamlError, load_yaml
from tunewise.text.suggest import listed


def study_from_options(
    file: Path | None, model: str | None, data: str | None, arms: Sequence[str], sets: Sequence[str]
) -> StudySpec:
    """Study that `tunewise compare` was asked for. Raises SpecError.

    Either a study file, in which --model and --data override its keys, or --model and --data without a file.
    """
    overrides: dict[str, Any] = {f"arms.{name}": method for name, method in map(parse_arm, arms)}
    overrides |= parse_options(sets)  # last, so that --set can change the arms
    if file is not None:
        # relative to the current folder, not to the file; if --data lacks a split, the file's split is not used
        sources = data_sources(data) if data else {}
        overrides |= {"model": absolute_model(model)} if model else {}
        overrides |= {f"data.{split}": sources.get(split) for split in ("train", "valid", "test")} if data else {}
        return read_study(file, overrides)
    if not model or not data:
        raise SpecError(
            "nothing to compare. Give a study file, or --model and --data. `tunewise init` writes a study file."
        )
    content: dict[str, Any] = {"name": study_name(model, data), "model": model, "data": data_sources(data)}
    content["arms"] = {} if arms else {name: dict(method) for name, method in DEFAULT_ARMS.items()}
    for key, value in overrides.items():
        set_key(content, key, value)
    return resolve_paths(parse_study(content, "command line"), Path())


FILE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".gz")

DEFAULT_ARMS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora-r8": {"method": "lora", "rank": 8, "targets": "all-linear"},
}


def parse_options(sets: Sequence[str]) -> dict[str, Any]:
    """Turn ['train.epochs=1'] into {'train.epochs': 1}. Values are YAML. Raises SpecError."""
    overrides = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SpecError(f"--set needs key=value, for example train.epochs=1, but got '{text}'.")
        overrides[key.strip()] = _yaml_value(value)
    return overrides


def parse_arm(text: str) -> tuple[str, dict[str, Any]]:
    """Turn 'lora-r4=lora,rank=4,targets=qkv' into ('lora-r4', {'method': 'lora', 'rank': 4, 'targets': 'qkv'}).

    Commas inside brackets belong to the value: `targets=[q_proj,v_proj]`. Raises SpecError.
    """
    name, _, rest = text.partition("=")
    method, *options = _split_outside_brackets(rest)
    if not re.fullmatch(ARM_NAME, name) or not method or "=" in method or any("=" not in o for o in options):
        raise SpecError(
            "--arm needs NAME=METHOD,key=value,..., for example lora-r4=lora,rank=4, but got "
            f"'{text}'. A name may contain letters, digits, '_' and '-'."
        )
    return name, {"method": method, **parse_options(options)}


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth = max(0, depth + (character in "[{") - (character in "]}"))
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def require_there(data: str) -> None:
    """Raise SpecError for what looks like a file of this machine, and is none."""
    if Path(data).suffix in FILE_SUFFIXES and not Path(data).exists():
        raise SpecError(f"no such file: {data}. Name an existing file or folder, a hub id, or builtin:tickets.")


def data_sources(data: str) -> dict[str, str]:
    """Train, valid and test sources that --data means: a folder's files of these names, or one source."""
    folder = Path(data)
    if not folder.is_dir():
        return {"train": str(folder.resolve()) if folder.is_file() else data}
    try:
        found = split_files(folder).files
        if not found and is_saved(folder):
            found = {"train": whole(folder)}
    except DataError as error:
        raise SpecError(f"--data {data}: {error}") from error
    if "train" not in found:
        names = listed(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise SpecError(f"--data {data}: the folder has no file named train.* (it contains {names}).")
    there = folder.resolve()
    alone = {split for split, files in found.items() if is_single_file(folder, files)}
    return {split: str(there / files[0].name if split in alone else there) for split, files in found.items()}


def absolute_model(model: str) -> str:
    """Absolute path of the folder that `model` names, else the name itself: bundled, or of the hub."""
    return model if model == "tiny" else absolute_path(Path(model)) or model


def study_name(model: str, data: str) -> str:
    """Study name from its data and model, such as 'trec6-minilm'. A file named train takes its folder's name."""
    source = Path(data).resolve().parent if Path(data).name.startswith("train.") else Path(data)
    return "-".join(as_name(Path(part).name.split(".")[0]) for part in (source, model))[:64]


def _yaml_value(text: str) -> Any:
    try:
        value = load_yaml(text)
    except YamlError as error:
        raise SpecError(f"'{text[:80]}' is not a YAML value: {error}.") from error
    # YAML 1.1 reads 1e-4 as text, but users mean a number
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value
