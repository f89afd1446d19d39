"""From a YAML file, plain data or command-line words to a StudySpec; every mistake is one line with the nearest key."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunewise.errors import SpecError
from tunewise.spec.mistakes import explain_all, misread_numbers
from tunewise.spec.study import StudySpec
from tunewise.text.plain_yaml import YamlError, load_yaml


def read_study(path: Path | str, overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """The study in a YAML file, relative data and model paths taken from the file's folder.

    `overrides` maps dotted keys to values (`{"train.epochs": 1}`). Raises SpecError.
    """
    path = Path(path)
    if not path.is_file():
        raise SpecError(f"no such study file: {path}. `tunewise init` writes one.")
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not readable as YAML: it is not UTF-8 ({error}). Save it as UTF-8 text.") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}.") from error
    except YamlError as error:
        raise SpecError(f"{path}: not readable as YAML: {error}.") from error
    if not isinstance(content, dict):
        kind = "empty" if content is None else type(content).__name__
        raise SpecError(f"{path}: a study is a mapping of keys, but this is {kind}. `tunewise init` writes one.")
    for key, value in (overrides or {}).items():
        set_key(content, key, value)
    content.setdefault("name", as_name(path.stem))
    return resolve_paths(parse_study(content, str(path)), path.parent)


def parse_study(content: Mapping[str, Any], origin: str) -> StudySpec:
    """A StudySpec from plain data. Raises SpecError with one line per mistake, each with the nearest key."""
    try:
        study = StudySpec.model_validate(content)
    except ValidationError as error:
        raise SpecError(explain_all(error.errors(), origin)) from error
    if lines := misread_numbers(content, study.model_dump(), origin):
        raise SpecError("\n".join(lines))
    return study


def set_key(content: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` in nested plain mappings. Raises SpecError where the way there is no mapping."""
    *parents, last = dotted.split(".")
    for name in parents:
        content = content.setdefault(name, {})
        if not isinstance(content, dict):
            raise SpecError(f"--set {dotted}: '{name}' holds a value, not keys.")
    content[last] = value


def resolve_paths(study: StudySpec, folder: Path) -> StudySpec:
    """File names that exist beside the study file become paths that work from anywhere."""

    def beside(name: str | None) -> str | None:
        if name is None or name.startswith("builtin:"):
            return name
        return absolute_path(folder / name) or name

    data = {key: beside(getattr(study.data, key)) for key in ("train", "valid", "test", "chat_template")}
    existing = {name: arm.replace(path=beside(arm.path)) for name, arm in study.existing_arms.items()}
    return study.replace(
        model=study.model if study.model == "tiny" else beside(study.model),
        data=study.data.replace(**data),
        arms={**study.arms, **existing},
        forgetting=study.forgetting.replace(text=beside(study.forgetting.text)),
    )


def absolute_path(path: Path) -> str | None:
    """The absolute path of something that exists; None: nothing is there."""
    try:
        return str(path.resolve()) if path.exists() else None
    except OSError:  # longer than any file name: somebody put the text itself where its file belongs
        return None


# --- from the command line


def as_name(text: str) -> str:
    """The text as a study may be called: letters, digits and what may stand between them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64] or "study"
