"""From a YAML file, plain data or command-line words to a StudySpec; every mistake is one line with the nearest key."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tunewise.errors import DataError, SpecError
from tunewise.inputs.data_folder import is_saved, is_single_file, split_files, whole
from tunewise.spec.mistakes import explain_all, misread_numbers
from tunewise.spec.study import ARM_NAME, StudySpec
from tunewise.storage.disk import write_output
from tunewise.text.plain_yaml import YamlError, load_yaml
from tunewise.text.suggest import listed, lookup


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
    content.setdefault("name", _as_name(path.stem))
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
        return _absolute(folder / name) or name

    data = {key: beside(getattr(study.data, key)) for key in ("train", "valid", "test", "chat_template")}
    existing = {name: arm.replace(path=beside(arm.path)) for name, arm in study.existing_arms.items()}
    return study.replace(
        model=study.model if study.model == "tiny" else beside(study.model),
        data=study.data.replace(**data),
        arms={**study.arms, **existing},
        forgetting=study.forgetting.replace(text=beside(study.forgetting.text)),
    )


def _absolute(path: Path) -> str | None:
    try:
        return str(path.resolve()) if path.exists() else None
    except OSError:  # longer than any file name: somebody put the text itself where its file belongs
        return None


# --- from the command line


def study_from_options(
    file: Path | None, model: str | None, data: str | None, arms: Sequence[str], sets: Sequence[str]
) -> StudySpec:
    """The study that `tunewise compare` was asked for. Raises SpecError.

    A study file, in which --model and --data replace what it says, or --model and --data alone.
    """
    overrides: dict[str, Any] = {f"arms.{name}": method for name, method in map(parse_arm, arms)}
    overrides |= parse_options(sets)  # last, so that they may change the arms
    if file is not None:
        # relative to where the command is given, not to the file; a split that --data lacks is not the file's
        sources = data_sources(data) if data else {}
        overrides |= {"model": _absolute_model(model)} if model else {}
        overrides |= {f"data.{split}": sources.get(split) for split in ("train", "valid", "test")} if data else {}
        return read_study(file, overrides)
    if not model or not data:
        raise SpecError("what should be compared? Give a study file, or --model and --data. `tunewise init` helps.")
    content: dict[str, Any] = {"name": study_name(model, data), "model": model, "data": data_sources(data)}
    content["arms"] = {} if arms else {name: dict(method) for name, method in DEFAULT_ARMS.items()}
    for key, value in overrides.items():
        set_key(content, key, value)
    return resolve_paths(parse_study(content, "command line"), Path())


DEFAULT_ARMS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora-r8": {"method": "lora", "rank": 8, "targets": "all-linear"},
}


# A LoRA arm at one rate far below its best; it would look as if LoRA of low rank did not work. Its own folder, because
# another arm makes another study.
UNFAIR_ARM: dict[str, Any] = {
    "name": "quickstart-unfair",
    "arms.lora-untuned": {"method": "lora", "rank": 4, "targets": "qkv", "rates": [1e-6]},
}


def parse_options(sets: Sequence[str]) -> dict[str, Any]:
    """['train.epochs=1'] -> {'train.epochs': 1}; values are YAML. Raises SpecError."""
    overrides = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SpecError(f"--set takes key=value, such as train.epochs=1, but got '{text}'.")
        overrides[key.strip()] = _yaml_value(value)
    return overrides


def parse_arm(text: str) -> tuple[str, dict[str, Any]]:
    """'lora-r4=lora,rank=4,targets=qkv' -> ('lora-r4', {'method': 'lora', 'rank': 4, 'targets': 'qkv'}).

    Commas inside brackets belong to the value: `targets=[q_proj,v_proj]`. Raises SpecError.
    """
    name, _, rest = text.partition("=")
    method, *options = _split_outside_brackets(rest)
    if not re.fullmatch(ARM_NAME, name) or not method or "=" in method or any("=" not in o for o in options):
        raise SpecError(
            "--arm takes NAME=METHOD,key=value,..., such as lora-r4=lora,rank=4, the name made of letters, digits, "
            f"'_' and '-', but got '{text}'."
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


def data_sources(data: str) -> dict[str, str]:
    """The train, valid and test sources that --data means: a folder's files of these names, or one source."""
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
        raise SpecError(f"--data {data}: the folder has no file named train.* (it holds {names}).")
    there = folder.resolve()
    alone = {split for split, files in found.items() if is_single_file(folder, files)}
    return {split: str(there / files[0].name if split in alone else there) for split, files in found.items()}


def _absolute_model(model: str) -> str:
    """The folder that `model` names from here, else the name itself: bundled, or of the hub."""
    return model if model == "tiny" else _absolute(Path(model)) or model


def study_name(model: str, data: str) -> str:
    """A folder name from what is compared: 'trec6-minilm'. A file named train is known by its folder."""
    source = Path(data).resolve().parent if Path(data).name.startswith("train.") else Path(data)
    return "-".join(_as_name(Path(part).name.split(".")[0]) for part in (source, model))[:64]


def _as_name(text: str) -> str:
    """The text as a study may be called: letters, digits and what may stand between them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64] or "study"


def keep_one_arm(study: StudySpec, only: str | None) -> StudySpec:
    """The study with one arm left. Raises SpecError where `only` does not say which."""
    if only is None and len(study.arms) > 1:
        raise SpecError(f"which arm should be trained? Say --only NAME. Arms: {', '.join(study.arms)}.")
    name = only or next(iter(study.arms))
    return study.replace(arms={name: lookup(study.arms, name, "arm")})


def _yaml_value(text: str) -> Any:
    try:
        value = load_yaml(text)
    except YamlError as error:
        raise SpecError(f"'{text[:80]}' is not a YAML value: {error}.") from error
    # YAML 1.1 reads 1e-4 as text; everybody who writes it means a number
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


TEMPLATE = """\
# A tunewise study: which arms, on which data, read how. `{check}` shows what it means.
# Every key and its default: docs/03-implementation.md. Unknown keys are errors.
model: {model}          # tiny (bundled), a folder, or a hub id
data:
{data}
  # columns: {{prompt: question, completion: answer}}   # where your columns have other names
  # limit: {{train: 1000}}                              # a quick look first
  # max_length: 512                                   # tokens; longer examples are cut, and counted
arms:
  full: {{method: full}}
  lora-r8: {{method: lora, rank: 8, targets: qkv}}          # alpha is 32 unless you say otherwise
  lora-r16-all: {{method: lora, rank: 16, targets: all-linear}}
  # lora: {{method: lora, rank: auto, max_rank: 64}}          # the smallest rank that is within the margin on valid
train: {{epochs: 2, batch_size: 16}}   # the same in every arm; batch_size = examples per optimizer step
tuning: {{rates: 3, cap: 7}}           # learning rates tried per arm; more where the best is at an edge
looks: [5, 10]                       # seeds after which the verdict is read; 10 for arms undecided at 5
# margin: 5% of gain                 # the loss of quality you accept; or 0.02 (in the metric), or 1pp
"""


def write_template(model: str, data: str, path: Path) -> None:
    """Write a commented study file. Raises SpecError where one is there already, or may not be written."""
    if path.exists() or path.is_symlink():
        raise SpecError(f"{path} exists already. Choose another name with --to.")
    sources = "\n".join(f"  {split}: {_as_yaml(source)}" for split, source in data_sources(data).items())
    check = shlex.join(["tunewise", "check", str(path)])
    content = TEMPLATE.format(check=check, model=_as_yaml(_absolute_model(model)), data=sources)
    write_output(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))


def _as_yaml(text: str) -> str:
    """The text as YAML writes it on one line, in quotation marks where they are needed."""
    return yaml.safe_dump(text, width=math.inf, allow_unicode=True).splitlines()[0]
