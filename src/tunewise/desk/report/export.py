"""Export the records of studies as one flat table, a row per run, for pandas, R or a spreadsheet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from tunewise.desk.metrics.metrics import compute, metrics_of
from tunewise.desk.metrics.scores import read_scores
from tunewise.desk.protocol.trials import selected_evaluation
from tunewise.errors import StudyError
from tunewise.records import LOST, RunRecord
from tunewise.storage.disk import require_output, write_output
from tunewise.storage.ledger import Ledger

FORMATS = (".csv", ".parquet")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # full-width signs are evaluated as well


def export_records(ledgers: Mapping[str, Ledger], path: Path) -> int:
    """Write every stored run of every study, including stale ones, to `path` (.csv or .parquet); return their number.

    Seconds are wall-clock time, sizes are bytes; a column is empty if a run has no such number. Metrics named `test_*`
    are from the test split. Raises StudyError for another suffix, damaged records, or a folder that cannot be written.
    """
    check_path(path)
    rows = [_row(name, ledger, record) for name, ledger in ledgers.items() for record in ledger.records()]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.table({column: [row.get(column) for row in rows] for column in columns})
    writer = csv.write_csv if path.suffix == ".csv" else pq.write_table
    shown = as_text(table) if path.suffix == ".csv" else table
    write_output(path, lambda temporary: writer(shown, temporary))
    return len(rows)


def check_path(path: Path) -> None:
    """Raise StudyError if records cannot be written to `path`, before anything is written."""
    require_output(path, *FORMATS)
    if not path.absolute().parent.is_dir():
        raise StudyError(f"cannot write {path}: its folder does not exist. Create it, or choose another path.")


def as_text(table: pa.Table) -> pa.Table:
    """The table with an apostrophe before every text that a spreadsheet would evaluate (OWASP, "CSV Injection")."""
    columns = {
        name: [f"'{text}" if text and text.startswith(FORMULA) else text for text in column.to_pylist()]
        if pa.types.is_string(column.type)
        else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pa.table(columns)


def _row(study: str, ledger: Ledger, record: RunRecord) -> dict[str, Any]:
    spec, usage, tuned = record.spec, record.usage, record.tuned
    selected = selected_evaluation(record)
    return {
        "study": study,
        "run_id": record.run_id,
        "arm": spec.arm,
        "role": spec.role,
        "method": spec.method.method,
        "status": record.status,
        "seed": spec.seed,
        "learning_rate": spec.learning_rate,
        "head_learning_rate": spec.head_learning_rate,
        "num_steps": record.num_steps,
        "selected_step": record.selected_step,
        "trainable_parameters": tuned.trainable_parameters if tuned else None,
        "total_parameters": tuned.total_parameters if tuned else None,
        "scale": tuned.scale if tuned else None,
        "valid_nll": selected.nll if selected else None,
        "valid_accuracy": selected.accuracy if selected else None,
        **_test_metrics(ledger, record),
        "train_seconds": usage.train_seconds if usage else None,
        "evaluate_seconds": usage.evaluate_seconds if usage else None,
        "num_tokens": usage.num_tokens if usage else None,
        "num_supervised_tokens": usage.num_supervised_tokens if usage else None,
        "train_peak_bytes": usage.train_memory.peak_bytes if usage and usage.train_memory else None,
        "saved_bytes": usage.saved_bytes if usage else None,
    }


def _test_metrics(ledger: Ledger, record: RunRecord) -> dict[str, float]:
    if record.status in LOST or "test" not in record.spec.score_splits:
        return {}
    scores = read_scores(ledger.scores_path(record.run_id), "test")
    names = metrics_of(record.spec.task, [metric.name for metric in record.spec.metrics])
    return {f"test_{name}": compute(name, scores) for name in names}
