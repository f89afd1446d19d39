"""Match classes by name: reorder the rows of a trained head to the order in which the data numbers its classes."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from transformers.pytorch_utils import Conv1D

from tunewise.errors import ModelError
from tunewise.storage.files import read_text

LINEAR = (torch.nn.Linear, Conv1D)
NO_NAME = re.compile(r"label[_ ]?(\d+)")  # transformers' name for an unnamed class
SHOWN = 8  # classes in a message


def class_names(id2label: Mapping[int, str]) -> tuple[str, ...]:
    """Names of a checkpoint's classes in the order of its rows."""
    return tuple(str(id2label[number]) for number in sorted(id2label))


def order_by_name(names: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """For each of `labels` the row of the class of that name; None if the two do not name the same classes.

    Case and outer blanks are ignored unless two names differ only in them; LABEL_3 is the class '3'.
    """
    for spelled in (str, _plain):
        rows = {spelled(name): row for row, name in enumerate(names)}
        wanted = [spelled(label) for label in labels]
        if len(rows) == len(names) == len(labels) and set(rows) == set(wanted):
            return [rows[name] for name in wanted]
    return None


def _plain(name: str) -> str:
    name = " ".join(name.casefold().split())
    unnamed = NO_NAME.fullmatch(name)
    return str(int(unnamed[1])) if unnamed else name


def require_order(what: str, names: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Result of `order_by_name`. Raises ModelError if names differ."""
    order = order_by_name(names, labels)
    if order is not None:
        return order
    if all(NO_NAME.fullmatch(name.casefold()) for name in names):
        raise ModelError(
            f"{what} does not name its {len(names)} classes ({_shown(names)}), so its predictions cannot be compared "
            f"with the data's classes: {_shown(labels)}. Write their names, in the order of training, into "
            "id2label of its config.json."
        )
    raise ModelError(
        f"{what} predicts the classes {_shown(names)}, but the data has {_shown(labels)}. Correct id2label in its "
        "config.json, or the labels of the data, so that the same class has the same name."
    )


def put_in_order(model: torch.nn.Module, body: str, order: Sequence[int]) -> None:
    """Move every row of the label layer (and of what an adapter adds to it) to the place given by `order`."""
    if list(order) == list(range(len(order))):
        return
    rows = torch.tensor(order)
    with torch.no_grad():
        for _, layer in label_layers(model, body, len(order)):
            for parameter in (layer.weight, layer.bias):
                if parameter is not None:
                    parameter.copy_(parameter[rows.to(parameter.device)])


def label_layers(model: torch.nn.Module, body: str, num_labels: int) -> Iterator[tuple[str, torch.nn.Module]]:
    """Linear layers outside the body with one output per class."""
    for name, module in model.named_modules():
        inside = f".{body}." in f".{name}" or ".lora_A." in name
        if not inside and isinstance(module, LINEAR) and module.weight.shape[0] == num_labels:
            yield name, module


def names_beside(folder: Path) -> tuple[str, ...] | None:
    """Names of classes in the config.json of an adapter's folder; None if there are none."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        id2label = json.loads(read_text(path)).get("id2label")
        return class_names({int(number): name for number, name in id2label.items()})
    except (ValueError, AttributeError, RecursionError):
        return None


def _shown(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name[:40]}'" for name in names[:SHOWN]) + more
