"""Data files according to the card of a dataset folder (the YAML at the top of its README.md).

Only the settings named here are supported. Others would change what is read, so they are refused instead of ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.errors import DataError
from tunewise.inputs.named_path import require_below, require_relative
from tunewise.spec import SPLIT_NAMES, Split
from tunewise.text.plain_yaml import YamlError, load_yaml

CARD = "README.md"
OTHER_CARD = ".huggingface.yaml"
MAX_CARD = 1_000_000  # bytes
CONFIG_KEYS = frozenset({"config_name", "data_files", "data_dir", "default", "description", "version"})


@dataclass(frozen=True)
class Card:
    """Contents of a card."""

    files: dict[Split, tuple[Path, ...]]  # empty: it names none
    folder: Path  # folder of the files, if the card names none
    classes: dict[str, list[str]]  # names of a label column that holds numbers


def read_card(folder: Path) -> Card:
    """Card of `folder`; empty if there is none. Raises DataError for names that lead outside the folder."""
    name, content = _content(folder)
    config = _config(folder, name, content.get("configs"))
    if unknown := sorted(map(str, config.keys() - CONFIG_KEYS)):
        raise DataError(
            f"{folder}: {name} sets {', '.join(unknown)[:200]} for reading the data, which is not supported. "
            f"Name the files in data.train, data.valid and data.test (and data.delimiter), or remove it from {name}."
        )
    base = folder
    if "data_dir" in config:
        base = require_below(folder, folder / require_relative(folder, config["data_dir"], name))
    files: dict[Split, tuple[Path, ...]] = {}
    for split, pattern in _patterns(folder, name, config.get("data_files", content.get("data_files"))):
        files[split] = (*files.get(split, ()), *_matching(folder, base, pattern, name))
    return Card(files, base, _classes(folder, name, content.get("dataset_info"), config.get("config_name")))


def _content(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """Name of the card and its YAML. Raises DataError."""
    own = folder / OTHER_CARD
    card = own if own.exists() else folder / CARD
    if not card.is_file():
        return CARD, {}
    require_below(folder, card)
    try:
        with card.open("rb") as file:
            text = file.read(MAX_CARD).decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    except OSError as error:
        raise DataError(f"{card}: cannot be read: {error.strerror}.") from error
    if card.name == CARD:
        head, mark, rest = text.partition("---\n")
        text = rest.partition("\n---")[0] if mark and not head.strip() else ""
    try:
        content = load_yaml(text)
    except YamlError as error:
        raise DataError(f"{card}: its YAML cannot be read: {error}. Correct it, or remove the card.") from error
    return card.name, content if isinstance(content, Mapping) else {}


def _config(folder: Path, name: str, configs: Any) -> Mapping[str, Any]:
    """The configuration to read: the only one, or the one marked as default. Raises DataError."""
    if configs is None:
        return {}
    if not isinstance(configs, list) or not all(isinstance(config, Mapping) for config in configs):
        raise DataError(f"{folder}: 'configs' in {name} must be a list of mappings. Correct or remove it.")
    if len(configs) == 1:
        only: Mapping[str, Any] = configs[0]
        return only
    chosen = [config for config in configs if config.get("default") or config.get("config_name") == "default"]
    if configs and len(chosen) != 1:
        names = ", ".join(str(config.get("config_name"))[:40] for config in configs[:20])
        raise DataError(
            f"{folder}: {name} describes {len(configs)} configurations ({names}), but none is marked as default. "
            "Name the files in data.train, data.valid and data.test."
        )
    return chosen[0] if chosen else {}


def _patterns(folder: Path, name: str, data_files: Any) -> list[tuple[Split, str]]:
    """Each name or pattern that the card gives, with its split. Raises DataError."""
    if data_files is None:
        return []
    if isinstance(data_files, str) or (isinstance(data_files, list) and not any(map(_is_entry, data_files))):
        data_files = {"train": data_files}
    if isinstance(data_files, Mapping):
        data_files = [{"split": split, "path": path} for split, path in data_files.items()]
    if not isinstance(data_files, list) or not all(map(_is_entry, data_files)):
        raise DataError(f"{folder}: 'data_files' in {name} must name files. Correct or remove it.")
    found = []
    for entry in data_files:
        paths = entry.get("path")
        named = [require_relative(folder, path, name) for path in (paths if isinstance(paths, list) else [paths])]
        said = str(entry.get("split", "train"))
        split: Split | None = next((ours for ours, names in SPLIT_NAMES.items() if said in names), None)
        if split:
            found += [(split, path) for path in named]
    return found


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, Mapping)


def _matching(folder: Path, base: Path, pattern: str, name: str) -> list[Path]:
    try:
        found = sorted(path for path in base.glob(pattern) if path.is_file())
    except (ValueError, OSError, NotImplementedError) as error:
        raise DataError(f"{folder}: {name} names '{pattern[:100]}', which is not a valid pattern: {error}.") from error
    if not found:
        raise DataError(
            f"{folder}: {name} names '{pattern[:100]}', but there is no such file. Add the file, or correct the name."
        )
    return [require_below(folder, path) for path in found]


def _classes(folder: Path, name: str, info: Any, config_name: Any) -> dict[str, list[str]]:
    """Class names that the card lists under dataset_info, by column. Raises DataError for those it cannot read."""
    infos = [item for item in (info if isinstance(info, list) else [info]) if isinstance(item, Mapping)]
    own = [item for item in infos if item.get("config_name") == config_name] or infos[:1]
    features = own[0].get("features") if own else None
    found: dict[str, list[str]] = {}
    for feature in features if isinstance(features, list) else []:
        kind = feature.get("dtype") if isinstance(feature, Mapping) else None
        label = kind.get("class_label") if isinstance(kind, Mapping) else None
        names = label.get("names") if isinstance(label, Mapping) else None
        if names is None:
            continue
        try:
            if isinstance(names, Mapping):  # {'0': neg, '1': pos}
                names = [names[key] for key in sorted(names, key=int)]
            if not isinstance(names, list):
                raise TypeError("not a list of names")
            found[str(feature["name"])] = [str(label) for label in names]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder}: {name} lists class names that cannot be read: {str(feature)[:200]}. Give each such "
                f"column a name, and its classes as a list or numbered from 0, or remove dataset_info from {name}."
            ) from error
    return found
