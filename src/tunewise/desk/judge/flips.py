"""Items on which an arm and full differ, with their texts if the logs hold them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tunewise.desk.arrays import Floats, Integers
from tunewise.desk.judge.pairing import PairedTask
from tunewise.desk.judge.verdicts import FULL
from tunewise.desk.judge.view import FlippedItem, Flips
from tunewise.inputs.logs.rows import rows_at

MOST_SHOWN = 10  # won, and lost, of an arm on a task
MOST_CHARACTERS = 600  # of a text
EQUAL = 1e-12  # a difference up to this is rounding
QUESTIONS = ("question", "query", "prompt", "text", "ctx", "sentence", "problem", "input")


def flips_of(task: PairedTask, arm: str) -> Flips:
    """The items that an arm won and lost against full, by the mean over its runs. Raises DataError."""
    sign = 1.0 if task.higher_is_better else -1.0
    gain = sign * (_mean(task, arm) - _mean(task, FULL))
    won, lost = (_largest(side * gain) for side in (1.0, -1.0))
    texts = {of: _rows(task, of, [*won, *lost]) for of in (arm, FULL)}

    def items(places: Iterable[int]) -> tuple[FlippedItem, ...]:
        return tuple(_item(task, arm, place, sign * float(gain[place]), texts) for place in places)

    return Flips(
        arm=arm,
        task=task.task,
        num_won=int((gain > EQUAL).sum()),
        num_lost=int((gain < -EQUAL).sum()),
        num_equal=int((np.abs(gain) <= EQUAL).sum()),
        lost=items(lost),
        won=items(won),
    )


def _mean(task: PairedTask, arm: str) -> Floats:
    """The item's value, mean over runs; what is divided by a weight, divided by it."""
    runs = task.runs[arm]
    total = sum((run.nll for run in runs[1:]), runs[0].nll)
    found: Floats = total / (len(runs) * np.maximum(runs[0].num_tokens, 1))
    return found


def _largest(gain: Floats) -> Integers:
    """The places of the largest gains above 0, largest first, in the order of the log among equals."""
    positive = np.flatnonzero(gain > EQUAL)
    return positive[np.argsort(-gain[positive], kind="stable")[:MOST_SHOWN]]


def _rows(task: PairedTask, arm: str, places: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    """The rows of the log of an arm's first run, by place of the item."""
    if not task.logs[arm][0].has_texts:
        return {int(place): {} for place in places}
    in_file = {int(place): int(task.rows[arm][place]) for place in places}
    found = rows_at(task.logs[arm][0].path, list(in_file.values()))
    return {place: found[row] for place, row in in_file.items()}


def _item(
    task: PairedTask, arm: str, place: int, difference: float, texts: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> FlippedItem:
    own, full = texts[arm][place], texts[FULL][place]
    return FlippedItem(
        id=str(task.runs[arm][0].examples[place]),
        difference=difference,
        is_won=(difference > 0) == task.higher_is_better,
        prompt=_prompt(own),
        target=_text(own.get("target")),
        answer=_text(own.get("filtered_resps", own.get("answer"))),
        answer_of_full=_text(full.get("filtered_resps", full.get("answer"))),
    )


def _prompt(row: Mapping[str, Any]) -> str | None:
    """What was asked: the first argument of the request, else a likely key of the document, else of the row."""
    arguments = row.get("arguments")
    if isinstance(arguments, Mapping) and arguments:
        first = next(iter(arguments.values()))
        if isinstance(first, Mapping) and isinstance(first.get("arg_0"), str):
            return _text(first["arg_0"])
    document = row.get("doc")
    for of in (document, row):
        if isinstance(of, Mapping) and (key := next((key for key in QUESTIONS if key in of), None)):
            return _text(of[key])
    return None


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0])
    shown = value if isinstance(value, str) else str(value)
    return shown if len(shown) <= MOST_CHARACTERS else f"…{shown[-MOST_CHARACTERS:]}"
