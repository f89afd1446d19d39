"""Scores of a run on one split, read from scores.parquet and refused if they are not valid.

Shapes: N examples, C classes, K statistics of a metric.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tunewise.desk.arrays import Floats, Integers, Texts
from tunewise.errors import StudyError, clause
from tunewise.records.tables import SCORES_SCHEMA, WRITTEN_COLUMNS
from tunewise.storage.files import read_table


@dataclass(frozen=True)
class Written:
    """Generated text for N prompts, and the statistics that the metrics counted in it."""

    texts: Texts  # N
    num_tokens: Integers  # N, written; the end-of-text token not counted
    stopped: Integers  # N; 1: ended with the end-of-text token, 0: stopped at the cap
    statistics: dict[str, Floats]  # metric -> (N, K)


@dataclass(frozen=True)
class Scores:
    """One split of one run: a row per example, sorted by example id, in the columns of records.SCORES_SCHEMA."""

    examples: Texts  # N, unique
    units: Texts  # N; rows of one unit are not independent
    nll: Floats  # N, nats summed over the example's supervised tokens
    num_tokens: Integers  # N, supervised tokens
    num_bytes: Integers  # N, UTF-8 bytes of the supervised text
    labels: Integers  # N; -1: not a classification
    predictions: Integers  # N; -1: not a classification
    class_log_probabilities: Floats  # N, C; C is 0 if not a classification
    written: Written | None = None  # None: nothing was generated

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.class_log_probabilities.shape[1])

    @property
    def top_log_probabilities(self) -> Floats:
        """Log probability of the most likely class of each of the N rows."""
        found: Floats = self.class_log_probabilities.max(axis=1)
        return found


class StoredScores(Scores):
    """Scores whose class probabilities are read on demand: with 1,000 classes they take 80 MB per run."""

    def __init__(self, scores: Scores, read: Callable[[], Scores]) -> None:
        for name, value in vars(scores).items():
            if name != "class_log_probabilities":
                object.__setattr__(self, name, value)
        kept = {"_read": read, "_num_classes": scores.num_classes, "_top": scores.top_log_probabilities}
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    @property
    def class_log_probabilities(self) -> Floats:
        """(N, C), from the file."""
        found: Floats = vars(self)["_read"]().class_log_probabilities
        return found

    @property
    def num_classes(self) -> int:
        """C."""
        return int(vars(self)["_num_classes"])

    @property
    def top_log_probabilities(self) -> Floats:
        """Log probability of the most likely class of each of the N rows."""
        found: Floats = vars(self)["_top"]
        return found


@dataclass(frozen=True)
class Rows:
    """The rows of a split in the order of a file; all runs of a study have the same ones in the same order."""

    stored_examples: pa.ChunkedArray
    stored_units: pa.ChunkedArray
    order: Integers  # N; that sorts the file's rows by example
    examples: Texts  # N, sorted
    units: Texts  # N, in the same order


def read_scores(path: Path, split: str, known: dict[str, Rows] | None = None) -> Scores:
    """The scores of one split, sorted by example id, whatever the order in the file.

    `known` holds the rows of splits that were read before, and gets those of this one: runs with the same rows share
    their texts in memory. Raises StudyError if the file cannot be read, lacks a column or the split, names an
    example twice, or holds a number that is missing or not finite.
    """
    advice = f"Delete {path.parent} and run the study again."
    try:
        table = read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StudyError(f"cannot read the scores in {path}: {clause(error)}. {advice}") from error
    required = [name for name in SCORES_SCHEMA.names if name not in WRITTEN_COLUMNS]
    if lacking := [name for name in SCORES_SCHEMA.names if name not in table.column_names]:
        raise StudyError(f"{path} lacks the columns {', '.join(lacking)}. {advice}")
    present = table["split"]
    table = _rows_where(table, pc.equal(present, pa.scalar(split)))
    if table.num_rows == 0:
        names = ", ".join(sorted(map(str, pc.unique(present).to_pylist()))) or "none"
        raise StudyError(f"{path} has no scores of split '{split}'; it holds: {names}. {advice}")
    if holes := [name for name in required if table[name].null_count]:
        raise StudyError(f"{path}: split '{split}' has rows without {', '.join(holes)}. {advice}")
    table = table.select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA)
    rows = _rows(table, (known or {}).get(split))
    if rows is None:
        raise StudyError(f"{path}: split '{split}' scores an example twice. {advice}")
    if known is not None:
        known[split] = rows
    scores = _sorted_scores(table, rows, path, advice)
    if not np.isfinite(scores.nll).all():
        row = scores.examples[~np.isfinite(scores.nll)][0]
        raise StudyError(
            f"{path}: the nll of example '{row}' is not a finite number, so these scores cannot be compared. If the "
            f"base itself gives no finite loss, as `tunewise check` says, take another checkpoint. Otherwise: {advice}"
        )
    return scores


def _rows_where(table: pa.Table, is_asked: pa.ChunkedArray) -> pa.Table:
    """The rows of the split; a view without a copy if they are contiguous, as the lab writes them."""
    places = np.flatnonzero(is_asked.fill_null(False).to_numpy())
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return table.slice(places[0], len(places))
    return table.take(pa.array(places))


def _rows(table: pa.Table, known: Rows | None) -> Rows | None:
    """The rows of a table, `known` itself if they are the same; None: an example occurs twice."""
    stored_examples, stored_units = table["example"], table["unit"]
    if known and stored_examples.equals(known.stored_examples) and stored_units.equals(known.stored_units):
        return known
    examples = np.array(stored_examples.to_pylist(), dtype=object)
    order = np.argsort(examples, kind="stable")
    if len(set(examples)) < len(examples):
        return None
    units = np.array(stored_units.to_pylist(), dtype=object)
    return Rows(stored_examples, stored_units, order, examples[order], units[order])


def _sorted_scores(table: pa.Table, rows: Rows, path: Path, advice: str) -> Scores:
    def column(name: str) -> npt.NDArray[np.generic]:
        values: npt.NDArray[np.generic] = table[name].to_numpy()
        return values[rows.order]

    lists = table["class_log_probabilities"]
    if len(pc.unique(pc.list_value_length(lists))) > 1:
        raise StudyError(f"{path}: rows have different numbers of class_log_probabilities. {advice}")
    classes = pc.list_flatten(lists).to_numpy().astype(np.float64, copy=False).reshape(table.num_rows, -1)
    return Scores(
        examples=rows.examples,
        units=rows.units,
        nll=column("nll").astype(np.float64),
        num_tokens=column("num_tokens").astype(np.int64),
        num_bytes=column("num_bytes").astype(np.int64),
        labels=column("label").astype(np.int64),
        predictions=column("prediction").astype(np.int64),
        class_log_probabilities=classes[rows.order],
        written=_written(table.select(WRITTEN_COLUMNS), rows.order, path, advice),
    )


def _written(table: pa.Table, order: Integers, path: Path, advice: str) -> Written | None:
    missing = {name: table[name].null_count for name in WRITTEN_COLUMNS}
    if set(missing.values()) == {table.num_rows}:
        return None
    if holes := [name for name, count in missing.items() if count]:
        raise StudyError(f"{path}: some rows are without {', '.join(holes)}. {advice}")
    table = table.take(pa.array(order))
    rows = [dict(row) for row in table["statistics"].to_pylist()]
    if len({tuple((name, len(values)) for name, values in row.items()) for row in rows}) > 1:
        raise StudyError(f"{path}: rows have different statistics. {advice}")
    return Written(
        texts=np.array(table["generated"].to_pylist(), dtype=object),
        num_tokens=table["num_generated"].to_numpy().astype(np.int64),
        stopped=table["stopped"].to_numpy(zero_copy_only=False).astype(np.int64),
        statistics={name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]},
    )
