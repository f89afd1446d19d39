"""Pair the items of all runs by task, id and prompt, and name what does not pair.

Shapes: N items that all runs of all arms have.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tunewise.desk.arrays import Integers
from tunewise.desk.metrics.scores import Scores
from tunewise.errors import DataError
from tunewise.inputs.logs.log import RunLog, TaskLog
from tunewise.text.suggest import listed

SHOWN = 3  # ids in a message


@dataclass(frozen=True)
class PairedTask:
    """One task: the same items in the same order in every run of every arm."""

    task: str
    metric: str  # as the logs name it
    higher_is_better: bool
    per: str | None
    runs: Mapping[str, tuple[Scores, ...]]  # by arm; the arrays of items are shared
    logs: Mapping[str, tuple[TaskLog, ...]]
    rows: Mapping[str, Integers]  # of the first run of each arm: places of the items in its file
    unpaired: Mapping[str, tuple[str, ...]]  # arm -> ids of its items that some run of another arm or its own lacks
    is_share: bool  # every score is 0 or 1, and counts the same
    are_units_given: bool


def pair_tasks(arms: Mapping[str, Sequence[RunLog]]) -> tuple[tuple[PairedTask, ...], dict[str, tuple[str, ...]]]:
    """All tasks that every run has, and for each other task the runs that lack it. Raises DataError."""
    runs = [run for of in arms.values() for run in of]
    names = list(dict.fromkeys(task for run in runs for task in run.tasks))
    lacking = {name: tuple(run.name for run in runs if name not in run.tasks) for name in names}
    common = [name for name in names if not lacking[name]]
    if not common:
        shown = "; ".join(f"{arm}: {listed(dict.fromkeys(t for r in of for t in r.tasks))}" for arm, of in arms.items())
        raise DataError(f"the runs have no task in common ({shown}). Compare logs of the same tasks.")
    paired = tuple(_pair({arm: [run.tasks[name] for run in of] for arm, of in arms.items()}) for name in common)
    return paired, {name: of for name, of in lacking.items() if of}


def _pair(logs: Mapping[str, Sequence[TaskLog]]) -> PairedTask:
    flat = [(arm, log) for arm, of in logs.items() for log in of]
    first = flat[0][1]
    for arm, log in flat[1:]:
        _require_same_question(next(iter(logs)), first, arm, log)
    for _, log in flat:
        _require_unique(log)
    ids, places = _common_items([log for _, log in flat])
    if len(ids) == 0:
        raise DataError(
            f"{first.task}: no item is in all runs: {first.path} has {first.ids[0]}, and {flat[-1][1].path} has "
            f"{flat[-1][1].ids[0]}. Compare logs of the same items."
        )
    by_log = {id(log): place for (_, log), place in zip(flat, places, strict=True)}
    for arm, log in flat[1:]:
        _require_same_prompts(first, log, ids, (by_log[id(first)], by_log[id(log)]), arm)
    units = ids if first.units is None else first.units.take(pa.array(by_log[id(first)]))
    scores = dict(zip((id(log) for _, log in flat), _scores(flat, by_log, ids, units), strict=True))
    return PairedTask(
        task=first.task,
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        per=first.per,
        runs={arm: tuple(scores[id(log)] for log in of) for arm, of in logs.items()},
        logs={arm: tuple(of) for arm, of in logs.items()},
        rows={arm: of[0].rows[by_log[id(of[0])]] for arm, of in logs.items()},
        unpaired={arm: found for arm, of in logs.items() if (found := _unpaired(of, ids))},
        is_share=first.weights is None and all(np.isin(log.numerators, (0.0, 1.0)).all() for _, log in flat),
        are_units_given=first.units is not None,
    )


def _require_same_question(first_arm: str, first: TaskLog, arm: str, log: TaskLog) -> None:
    better = ("lower", "higher")
    both: dict[str, tuple[object, object]] = {
        "metric": (first.metric, log.metric),
        "better side of the metric": (better[first.higher_is_better], better[log.higher_is_better]),
    }
    both |= {name: (first.facts[name], log.facts[name]) for name in first.facts.keys() & log.facts.keys()}
    for name, (one, other) in both.items():
        if one != other:
            raise DataError(
                f"{first.task}: the {name} is {one} in {first_arm} ({first.path}) and {other} in {arm} ({log.path}), "
                "so the scores cannot be compared. Evaluate both in the same way."
            )


def _require_unique(log: TaskLog) -> None:
    if len(log.ids) == 0:
        raise DataError(f"{log.path}: task {log.task} has no items.")
    if pc.count_distinct(log.ids).as_py() < len(log.ids):
        counts = pc.value_counts(log.ids)
        twice = counts.field(0).filter(pc.greater(counts.field(1), 1))
        raise DataError(
            f"{log.path}: task {log.task} has {len(twice):,} ids more than once, such as {twice[0]}. Every item needs "
            "an id of its own. If these are seeds, name them in a column `seed`."
        )


def _common_items(logs: Sequence[TaskLog]) -> tuple[pa.Array, list[Integers]]:
    """The items that all logs have, in the order of the first, and their places in each."""
    ids, others = logs[0].ids, [log for log in logs[1:] if not log.ids.equals(logs[0].ids)]
    for log in others:
        ids = ids.filter(pc.is_in(ids, log.ids))
    everything = np.arange(len(ids))
    is_whole = len(ids) == len(logs[0].ids)
    return ids, [everything if is_whole and log.ids.equals(ids) else _places(ids, log.ids) for log in logs]


def _places(ids: pa.Array, among: pa.Array) -> Integers:
    found: Integers = pc.index_in(ids, among).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _require_same_prompts(
    first: TaskLog, log: TaskLog, ids: pa.Array, places: tuple[Integers, Integers], arm: str
) -> None:
    if first.prompts is None or log.prompts is None:
        return
    if first.prompts is log.prompts or (len(first.prompts) == len(ids) and first.prompts.equals(log.prompts)):
        return
    pairs = zip((first.prompts, log.prompts), places, strict=True)
    one, other = (prompts.take(pa.array(place)) for prompts, place in pairs)
    differ = np.flatnonzero(pc.not_equal(one, other).to_numpy(zero_copy_only=False))
    if len(differ):
        shown = listed([ids[int(place)] for place in differ[:SHOWN]])
        raise DataError(
            f"{first.task}: {len(differ):,} of {len(ids):,} items have other prompts in {first.path} than in "
            f"{log.path} ({arm}), such as {shown}. Evaluate both with the same prompts, shots and chat template."
        )


def _scores(
    flat: Sequence[tuple[str, TaskLog]], places: Mapping[int, Integers], ids: pa.Array, units: pa.Array
) -> Iterator[Scores]:
    """The scores of every log on the paired items: numerators as `nll`, weights as `num_tokens`."""
    examples = ids.to_numpy(zero_copy_only=False)
    of_units = examples if units is ids else units.to_numpy(zero_copy_only=False)
    number, first = len(ids), flat[0][1]
    ones, none = np.ones(number, dtype=np.int64), np.full(number, -1, dtype=np.int64)
    weights = ones if first.weights is None else first.weights[places[id(first)]]
    for _, log in flat:
        if log.weights is not None and not np.array_equal(log.weights[places[id(log)]], weights):
            raise DataError(f"{log.path}: {log.metric} counts other {log.per}s than {first.path} for the same items.")
        yield Scores(
            examples=examples,
            units=of_units,
            nll=log.numerators[places[id(log)]],
            num_tokens=weights,
            num_bytes=ones,
            labels=none,
            predictions=none,
            class_log_probabilities=np.empty((number, 0)),
        )


def _unpaired(logs: Sequence[TaskLog], ids: pa.Array) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for log in logs:
        if len(log.ids) > len(ids):
            found |= dict.fromkeys(log.ids.filter(pc.invert(pc.is_in(log.ids, ids))).to_pylist())
    return tuple(found)
