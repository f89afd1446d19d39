"""What a run scored on one split, read from scores.parquet and refused where it cannot be trusted.

Shapes: N examples, C classes, K statistics of a metric.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunewise.disk import read_table
from tunewise.errors import StudyError
from tunewise.records import SCORES_SCHEMA, WRITTEN_COLUMNS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]  # of str; objects, because numpy's own strings pad every row to the longest


@dataclass(frozen=True)
class Written:
    """What a model wrote for the same N prompts, and what the metrics counted in it."""

    texts: Texts  # N
    num_tokens: Integers  # N, written; the end-of-text token not counted
    stopped: Integers  # N; 1: it ended by itself, 0: it was cut off at the cap
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
    class_log_probabilities: Floats  # N, C; C is 0 where it is not a classification
    written: Written | None = None  # None: nothing was generated


def read_scores(path: Path, split: str) -> Scores:
    """The scores of one split, sorted by example id, whatever the order in the file.

    Raises StudyError where the file cannot be read, lacks a column or the split, names an example twice, or holds a
    number that is missing or not finite.
    """
    mend = f"Delete {path.parent} and run the study again."
    try:
        table = read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StudyError(f"cannot read the scores in {path}: {error}. {mend}") from error
    required = [name for name in SCORES_SCHEMA.names if name not in WRITTEN_COLUMNS]
    if lacking := [name for name in SCORES_SCHEMA.names if name not in table.column_names]:
        raise StudyError(f"{path} lacks the columns {', '.join(lacking)}. {mend}")
    present = table["split"].to_pylist()
    table = table.filter(pa.array([name == split for name in present], pa.bool_()))
    if table.num_rows == 0:
        known = ", ".join(sorted({str(name) for name in present})) or "none"
        raise StudyError(f"{path} has no scores of split '{split}'; it holds: {known}. {mend}")
    if holes := [name for name in required if table[name].null_count]:
        raise StudyError(f"{path}: split '{split}' has rows without {', '.join(holes)}. {mend}")
    scores = _sorted_scores(table.select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA), path, mend)
    if len(set(scores.examples)) < len(scores.examples):
        raise StudyError(f"{path}: split '{split}' scores an example twice. {mend}")
    if not np.isfinite(scores.nll).all():
        row = scores.examples[~np.isfinite(scores.nll)][0]
        raise StudyError(
            f"{path}: the nll of example '{row}' is not a finite number, so nothing can be compared with it. If the "
            f"base itself gives no finite loss, as `tunewise check` says, take another checkpoint. Otherwise: {mend}"
        )
    return scores


def _sorted_scores(table: pa.Table, path: Path, mend: str) -> Scores:
    examples = np.array(table["example"].to_pylist(), dtype=object)
    order = np.argsort(examples, kind="stable")
    lists = table["class_log_probabilities"].to_pylist()
    if len({len(row) for row in lists}) > 1:
        raise StudyError(f"{path}: rows have different numbers of class_log_probabilities. {mend}")

    def column(name: str) -> npt.NDArray[np.generic]:
        values: npt.NDArray[np.generic] = table[name].to_numpy()
        return values[order]

    return Scores(
        examples=examples[order],
        units=np.array(table["unit"].to_pylist(), dtype=object)[order],
        nll=column("nll").astype(np.float64),
        num_tokens=column("num_tokens").astype(np.int64),
        num_bytes=column("num_bytes").astype(np.int64),
        labels=column("label").astype(np.int64),
        predictions=column("prediction").astype(np.int64),
        class_log_probabilities=np.array(lists, dtype=np.float64).reshape(len(lists), -1)[order],
        written=_written(table.select(WRITTEN_COLUMNS).take(pa.array(order)), path, mend),
    )


def _written(table: pa.Table, path: Path, mend: str) -> Written | None:
    missing = {name: table[name].null_count for name in WRITTEN_COLUMNS}
    if set(missing.values()) == {table.num_rows}:
        return None
    if holes := [name for name, count in missing.items() if count]:
        raise StudyError(f"{path}: some rows are without {', '.join(holes)}. {mend}")
    rows = [dict(row) for row in table["statistics"].to_pylist()]
    if len({tuple((name, len(values)) for name, values in row.items()) for row in rows}) > 1:
        raise StudyError(f"{path}: rows have different statistics. {mend}")
    return Written(
        texts=np.array(table["generated"].to_pylist(), dtype=object),
        num_tokens=table["num_generated"].to_numpy().astype(np.int64),
        stopped=table["stopped"].to_numpy(zero_copy_only=False).astype(np.int64),
        statistics={name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]},
    )
