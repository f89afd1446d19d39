"""Home-made logs: tables with a row for every item, or for every item of every run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tunewise.errors import DataError
from tunewise.inputs.logs.log import RunLog, TaskLog
from tunewise.inputs.logs.rows import column_names, numbers, read_columns, texts
from tunewise.text.suggest import listed

IDS = ("id", "doc_id", "item", "example")
ONE_TASK = "items"  # the name of a task without a name


def read_table_runs(
    path: Path, arm: str, name: str, metrics: Sequence[str], unit: str | None, lower_is_better: bool
) -> list[RunLog]:
    """The runs of an arm in a table: one for each value of its column `seed`, or one. Raises DataError.

    Columns: id, the score (the first of `metrics` that the table has; without `metrics`, `score`), and if there are
    any: task, seed, arm, prompt. With a column `arm`, only rows of this arm are read.
    """
    columns = column_names(path)
    own = next((column for column in IDS if column in columns), None)
    score = next((column for column in metrics or ("score",) if column in columns), None)
    if own is None or score is None:
        raise DataError(
            f"{path} needs a column `id` and a column `{' or '.join(metrics) or 'score'}`. It has: "
            f"{listed(columns)}. Name the column of the scores with --metric."
        )
    optional = [column for column in ("task", "seed", "arm", "prompt") if column in columns]
    table = read_columns(path, list(dict.fromkeys([own, score, *optional, *([unit] if unit else [])])))
    places = np.arange(table.num_rows)
    if "arm" in optional:
        is_own = pc.equal(texts(table["arm"], path, "arm"), arm).to_numpy(zero_copy_only=False)
        if not is_own.any():
            known = listed(pc.unique(table["arm"]).to_pylist())
            raise DataError(f"{path}: no row has arm '{arm}'. It has rows of: {known}.")
        places, table = places[is_own], table.filter(pa.array(is_own))
    scores = numbers(table[score], path, score)
    found = []
    for seed, of_seed in _groups(table, "seed", path):
        of_tasks = _groups(table.take(pa.array(of_seed)), "task", path)
        tasks = {}
        for task, of_task in of_tasks:
            rows = of_seed[of_task]
            part = table.take(pa.array(rows))
            tasks[task or ONE_TASK] = TaskLog(
                path=path,
                task=task or ONE_TASK,
                metric=score,
                higher_is_better=not lower_is_better,
                ids=texts(part[own], path, own),
                numerators=scores[rows],
                weights=None,
                per=None,
                units=texts(part[unit], path, unit) if unit else None,
                prompts=texts(part["prompt"], path, "prompt") if "prompt" in optional else None,
                rows=places[rows],
            )
        found.append(RunLog(name=name if seed is None else f"{name}, seed {seed}", seed=seed, tasks=tasks))
    return found


def _groups(table: pa.Table, column: str, path: Path) -> list[tuple[str | None, np.ndarray]]:
    """The values of a column in order of appearance, each with its rows; (None, all rows) if there is no such one."""
    if column not in table.column_names:
        return [(None, np.arange(table.num_rows))]
    values = texts(table[column], path, column)
    return [
        (str(value), np.flatnonzero(pc.equal(values, value).to_numpy(zero_copy_only=False)))
        for value in pc.unique(values).to_pylist()
    ]
