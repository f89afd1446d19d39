"""Read a StudySpec from YAML, plain data or command-line arguments; each mistake is one line with advice."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunewise.errors import SpecError
from tunewise.spec.data import DataSpec
from tunewise.spec.mistakes import explain_all, misread_numbers
from tunewise.spec.study import StudySpec
from tunewise.text.plain_yaml import YamlError, load_yaml


def read_study(path: Path | str, overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """The study in a YAML file; relative data and model paths start at the file's folder.

    `overrides` maps dotted keys to values (`{"train.epochs": 1}`). Raises SpecError.
    """
    path = Path(path)
    if not path.is_file():
        raise SpecError(f"no such study file: {path}. `tunewise init` writes one.")
    content = read_yaml(path)
    if not isinstance(content, dict):
        kind = "empty" if content is None else type(content).__name__
        raise SpecError(f"{path}: a study must be a mapping of keys, but this is {kind}. `tunewise init` writes one.")
    for key, value in (overrides or {}).items():
        set_key(content, key, value)
    content.setdefault("name", as_name(path.stem))
    return resolve_paths(parse_study(content, str(path)), path.parent)


def read_yaml(path: Path) -> Any:
    """Plain data in a YAML file; None if it is empty. Raises SpecError."""
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not readable as YAML: it is not UTF-8 ({error}). Save it as UTF-8 text.") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}.") from error
    except YamlError as error:
        raise SpecError(f"{path}: not readable as YAML: {error}.") from error


def parse_study(content: Mapping[str, Any], origin: str) -> StudySpec:
    """StudySpec from plain data. Raises SpecError with one line per mistake, each with the nearest key."""
    try:
        study = StudySpec.model_validate(content)
    except ValidationError as error:
        raise SpecError(explain_all(error.errors(), origin)) from error
    if lines := misread_numbers(content, study.model_dump(), origin):
        raise SpecError("\n".join(lines))
    return study


def set_key(content: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` in nested plain mappings. Raises SpecError if a part of the path is not a mapping."""
    *parents, last = dotted.split(".")
    for name in parents:
        content = content.setdefault(name, {})
        if not isinstance(content, dict):
            raise SpecError(f"--set {dotted}: '{name}' is a value, not a mapping of keys.")
    content[last] = value


def resolve_paths(study: StudySpec, folder: Path) -> StudySpec:
    """The study with the files next to it named by absolute paths, so that it works from any folder."""

    def beside(name: str | None) -> str | None:
        if name is None or name.startswith("builtin:"):
            return name
        return absolute_path(folder / name) or name

    def located(data: DataSpec) -> DataSpec:
        files = ("train", "valid", "test", "chat_template")
        return data.replace(**{key: beside(getattr(data, key)) for key in files})

    existing = {
        name: arm.replace(path=beside(arm.path), paths=tuple(beside(path) for path in arm.paths))
        for name, arm in study.existing_arms.items()
    }
    return study.replace(
        model=study.model if study.model == "tiny" else beside(study.model),
        data=located(study.data),
        sets={name: located(data) for name, data in study.sets.items()},
        arms={**study.arms, **existing},
        forgetting=study.forgetting.replace(text=beside(study.forgetting.text)),
    )


def absolute_path(path: Path) -> str | None:
    """Absolute path of something that exists; None if nothing is there."""
    try:
        return str(path.resolve()) if path.exists() else None
    except OSError:  # longer than any file name: a text was given instead of the name of its file
        return None


# --- from the command line


def as_name(text: str) -> str:
    """The text turned into a study name: letters, digits and allowed separators."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64] or "study"
