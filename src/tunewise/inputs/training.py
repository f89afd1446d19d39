"""What a trainer left beside a model: settings and loss curve, from plain data only.

- trainer_state.json: the Trainer of transformers, and what builds on it (TRL, Axolotl, LLaMA-Factory, ms-swift).
- adapter_config.json: peft.
- args.json (ms-swift), training_args.yaml (LLaMA-Factory), axolotl_config.yaml (Axolotl), and these names with other
  endings for plain data.

`training_args.bin` is a pickle, which can run code. It is never read.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunewise.errors import DataError, clause
from tunewise.records.data import LeftByTrainer
from tunewise.text.plain_yaml import YamlError, load_yaml

STATE = "trainer_state.json"
ARGUMENTS = re.compile(r"(?:args|training_args|axolotl_config)\.(?:json|ya?ml)")
MOST_BYTES = 64 * 2**20  # of one file
MOST_POINTS = 60  # of a loss curve that a study keeps
# our name -> the names of the trainers, in the order in which they are asked
NAMES: dict[str, tuple[str, ...]] = {
    "learning rate": ("learning_rate",),
    "epochs": ("num_train_epochs", "num_epochs"),
    "batch size": ("per_device_train_batch_size", "micro_batch_size", "train_batch_size"),
    "accumulation": ("gradient_accumulation_steps",),
    "seed": ("seed",),
    "scheduler": ("lr_scheduler_type", "lr_scheduler"),
    "weight decay": ("weight_decay",),
}
OF_ADAPTER = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}


NOTHING_LEFT = LeftByTrainer()


def training_of(folder: Path) -> LeftByTrainer:
    """What a trainer left in the folder of a model. Raises DataError for a file that is damaged."""
    settings: dict[str, str] = {}
    losses: tuple[tuple[int, float], ...] = ()
    sources = []
    for path in _files(folder):
        content = _plain(path)
        sources.append(path.name)
        if path.name == STATE:
            losses = tuple(_losses(content))
            settings |= _of_state(content)
        elif path.name == "adapter_config.json":
            settings |= {name: _text(content[key]) for name, key in OF_ADAPTER.items() if content.get(key) is not None}
        else:
            settings |= dict(_arguments(content))
    return LeftByTrainer(settings=settings, losses=losses, sources=tuple(sources))


def thinned(left: LeftByTrainer) -> LeftByTrainer:
    """The same with at most MOST_POINTS points of the loss: means of neighboring ones, at the last of their steps."""
    width = math.ceil(len(left.losses) / MOST_POINTS) or 1
    groups = [left.losses[begin : begin + width] for begin in range(0, len(left.losses), width)]
    return left.replace(losses=[(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups])


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder that are read, those that know more last. Links are not followed."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    known = [name for name in names if name in (STATE, "adapter_config.json")]
    yield from (folder / name for name in (*known, *filter(ARGUMENTS.fullmatch, names)))


def _plain(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} is larger than {MOST_BYTES // 2**20} MiB, so it is not what a trainer leaves.")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else load_yaml(text)
    except (OSError, ValueError, RecursionError, YamlError) as error:
        raise DataError(f"cannot read {path}: {clause(error)}. Move it away if it is not of this model.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__} instead of settings by name.")
    return content


def _arguments(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, keys in NAMES.items():
        value = next((content[key] for key in keys if content.get(key) is not None), None)
        if isinstance(value, str) or _number(value) is not None:
            yield name, _text(value)


def _of_state(content: Mapping[str, Any]) -> dict[str, str]:
    """Steps, and the highest learning rate that was logged: the one at the end of warm-up."""
    rates = [_number(row.get("learning_rate")) for row in _history(content)]
    known = [rate for rate in rates if rate is not None]
    found = {name: value for name, value in _arguments(content) if name in ("epochs", "batch size")}
    found |= {"learning rate": _text(max(known))} if known else {}
    steps = _number(content.get("global_step"))
    return found | ({"steps": _text(int(steps))} if steps else {})


def _losses(content: Mapping[str, Any]) -> Iterator[tuple[int, float]]:
    for row in _history(content):
        step, loss = _number(row.get("step")), _number(row.get("loss"))
        if step is not None and loss is not None:
            yield int(step), loss


def _history(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    history = content.get("log_history")
    return [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []


def _number(value: object) -> float | None:
    """A finite number; None: another value, or a whole number that no float holds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str:
    if isinstance(value, str):  # YAML 1.1 reads 2e-4 as a word, because it has no point
        with contextlib.suppress(ValueError):
            value = float(value)
    return f"{value:g}" if isinstance(value, float) else str(value)[:60]
