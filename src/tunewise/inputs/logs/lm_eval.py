"""Per-sample logs of lm-evaluation-harness: samples_<task>_<date>.jsonl with results_<date>.json beside them.

Written by `lm_eval --log_samples --output_path DIR`; read and tried with versions 0.4.5 to 0.4.13. A line holds
doc_id, doc, prompt_hash, filter, metrics, and the value of each metric. If a task has several filters, every item has
a line for each of them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tunewise.errors import DataError, clause
from tunewise.inputs.logs.log import RunLog, TaskLog
from tunewise.inputs.logs.rows import first_row, numbers, read_columns, texts
from tunewise.inputs.training import NOTHING_LEFT, training_of
from tunewise.text.suggest import listed

SAMPLES = re.compile(r"samples_(.+?)(?:_(\d{4}-\d\d-\d\dT[\d.:-]+))?\.jsonl")
NO_FILTER = "none"
# Metrics that are no mean of the items' values, but of pairs (log likelihood, what it is divided by).
WEIGHTED = {"word_perplexity": "word", "byte_perplexity": "byte", "bits_per_byte": "byte"}
MAX_RESULTS = 256 * 2**20  # bytes of a results file
FACTS = {"version": "versions", "number of shots": "n-shot"}
SETTINGS = ("lm_eval_version", "chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")


def is_run(folder: Path) -> bool:
    """Whether a folder holds the samples of a run."""
    return any(SAMPLES.fullmatch(path.name) for path in folder.iterdir())


def read_run(paths: Sequence[Path], name: str, metrics: Sequence[str], unit: str | None) -> RunLog:
    """The run of these samples files, one per task. Raises DataError.

    `metrics`: the first of them that a task has is read; (): the task's own first one.
    """
    tasks: dict[str, TaskLog] = {}
    found: dict[str, Any] = {}
    for path in paths:
        task, date = _task_and_date(path)
        if task in tasks:
            raise DataError(f"{path} and {tasks[task].path.name} are two logs of task {task}. Keep one in the folder.")
        found = _results(path.parent, date) or found
        tasks[task] = _read_task(path, task, found, metrics, unit)
    arguments = _at(found, "config", "model_args")
    of_model = arguments if isinstance(arguments, Mapping) else {}
    model = _at(found, "model_name") or of_model.get("pretrained")
    adapter = of_model.get("peft")
    settings = {key: found.get(key) for key in SETTINGS} | {"model_dtype": _at(found, "config", "model_dtype")}
    shown = f"{model} with {adapter}" if adapter else model
    place = Path(str(adapter or of_model.get("pretrained") or ""))
    return RunLog(
        name=name,
        seed=None,
        training=training_of(place) if place.is_absolute() and place.is_dir() else NOTHING_LEFT,
        tasks=tasks,
        model=None if shown is None else str(shown)[:200],
        is_adapter=bool(adapter) if of_model else None,
        settings={key: str(value) for key, value in settings.items() if value is not None},
    )


def _task_and_date(path: Path) -> tuple[str, str | None]:
    named = SAMPLES.fullmatch(path.name)
    assert named, "chosen by this pattern"
    return named[1], named[2]


def _results(folder: Path, date: str | None) -> dict[str, Any]:
    """The results file of a run; empty if there is none."""
    path = folder / (f"results_{date}.json" if date else "results.json")
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_RESULTS:
            raise DataError(f"{path} is larger than {MAX_RESULTS // 2**20} MiB, so it is not a results file.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {clause(error)}.") from error
    return content if isinstance(content, dict) else {}


def _at(content: object, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _read_task(path: Path, task: str, results: Mapping[str, Any], metrics: Sequence[str], unit: str | None) -> TaskLog:
    first = first_row(path)
    known = first.get("metrics")
    if not isinstance(known, list) or "doc_id" not in first:
        raise DataError(
            f"{path} is not a samples file of lm-evaluation-harness: its first line lacks doc_id or metrics. "
            "Rename it, to have it read as a table of id and score."
        )
    asked = next((name for name in metrics if name.partition(",")[0] in known), None)
    if metrics and asked is None:
        raise DataError(f"{path}: task {task} has no metric {listed(metrics)}. It has: {listed(known)}.")
    metric, _, chosen = (asked or str(known[0])).partition(",")
    hashes = [name for name in ("prompt_hash", "doc_hash") if name in first][:1]
    filters = ["filter"] if "filter" in first else []
    group = [f"doc.{unit}" if unit not in first else unit] if unit else []
    table = read_columns(path, ["doc_id", metric, *hashes, *filters, *group])
    rows = np.arange(table.num_rows)
    own = NO_FILTER
    if filters:
        names = pc.unique(table["filter"]).to_pylist()
        own = chosen or str(names[0])
        if own not in names:
            raise DataError(f"{path}: no filter '{own}'. Known: {listed(f'{metric},{name}' for name in names)}.")
        rows = np.flatnonzero(pc.equal(table["filter"], own).to_numpy(zero_copy_only=False))
        table = table if len(rows) == table.num_rows else table.take(pa.array(rows))
    numerators, weights, higher = _values(table[metric], path, metric, _at(results, "higher_is_better", task, metric))
    return TaskLog(
        path=path,
        task=task,
        metric=metric if own == NO_FILTER else f"{metric},{own}",
        higher_is_better=higher,
        ids=texts(table["doc_id"], path, "doc_id"),
        numerators=numerators,
        weights=weights,
        per=WEIGHTED[metric] if weights is not None else None,
        units=texts(table[group[0]], path, group[0]) if group else None,
        prompts=texts(table[hashes[0]], path, hashes[0]) if hashes else None,
        rows=rows,
        facts={name: value for name, key in FACTS.items() if (value := _at(results, key, task)) is not None},
    )


def _values(column: pa.ChunkedArray, path: Path, metric: str, higher: object) -> tuple[Any, Any, bool]:
    """Numerators, weights, and the better side.

    Perplexities and bits per byte are stored as log likelihood with a weight, or alone: their numerator is the
    negative log likelihood, which is better if lower.
    """
    if metric in WEIGHTED:
        pairs = column.to_pylist()
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise DataError(f"{path}: {metric} must be a pair of a log likelihood and a count in every line.")
        both = np.array(pairs, dtype=np.float64)
        numerators = numbers(pa.chunked_array([pa.array(-both[:, 0])]), path, metric)
        return numerators / (np.log(2) if metric == "bits_per_byte" else 1), both[:, 1].astype(np.int64), False
    if pa.types.is_list(column.type):
        raise DataError(
            f"{path}: {metric} is not a mean over items: every line holds parts of it. Name another one with --metric."
        )
    found = numbers(column, path, metric)
    return (-found, None, False) if metric == "perplexity" else (found, None, higher is not False)
