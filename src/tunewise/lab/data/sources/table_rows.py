"""Rows of Parquet and Arrow files. The expanded size of a column is known or bounded before it is converted."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tunewise.errors import DataError, clause
from tunewise.lab.data.sources.limits import (
    ANY_FILE,
    MAX_ROW,
    TIMES_COLUMN,
    TIMES_TEXT,
    Unpacked,
    allowed,
    refuse_unpacked,
    too_long,
)
from tunewise.lab.data.sources.lines import Content, NumberedRows

BATCH_ROWS = 512
BATCH_NESTED = 32  # rows of a file with text inside lists, whose repeated cells are expanded
LISTED_BYTES = 12  # of a number in a list: the number and two levels
AT_ONCE = 2**25  # bytes of rows that are converted to Python objects together
DICTIONARIES = frozenset(("RLE_DICTIONARY", "PLAIN_DICTIONARY"))


def parquet_rows(path: Path, file: Content) -> NumberedRows:
    """Rows of a Parquet file. Raises DataError."""
    if not file.peek(1):
        return
    packed = isinstance(file, Unpacked)
    if file.peek(4)[:4] != b"PAR1":
        raise DataError(f"{path}: is not a complete Parquet file: it does not begin with PAR1. Write it again.")
    content = io.BytesIO(file.read()) if packed else file
    with Converted(path) as counted:
        metadata = pq.read_metadata(content)
        _require_distinct(path, metadata.schema.to_arrow_schema().names)
        _require_small(path, metadata)
        content.seek(0)
        again, nested = _repeated_text(metadata, metadata.schema.to_arrow_schema())
        table = pq.ParquetFile(content, read_dictionary=again)
        batches = table.iter_batches(batch_size=BATCH_NESTED if nested else BATCH_ROWS)
        yield from counted.rows(batches)


def arrow_rows(path: Path, file: Content) -> NumberedRows:
    """Rows of an .arrow file: a stream, as `save_to_disk` writes it, or a file in Arrow's format."""
    if not file.peek(1):
        return
    with Converted(path) as counted:
        is_file = file.peek(6)[:6] == b"ARROW1"
        if is_file:
            content = io.BytesIO(file.read()) if isinstance(file, Unpacked) else file
            reader = pa.ipc.open_file(content)
            _require_distinct(path, reader.schema.names)
            yield from counted.rows(reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            stream = pa.ipc.open_stream(file)
            _require_distinct(path, stream.schema.names)
            yield from counted.rows(iter(stream))


def class_names(path: Path) -> dict[str, list[str]]:
    """Names of the classes that the `datasets` library stores as numbers, by column; none for other files."""
    try:
        if path.suffix.lower() == ".arrow":
            with path.open("rb") as file:
                schema = pa.ipc.open_stream(file).schema
        elif path.suffix.lower() == ".parquet":
            schema = pq.read_schema(path)
        else:
            return {}
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            str(column): [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # errors of the file are reported when its rows are read


class Converted:
    """Turns errors of reading a table into a DataError; its `rows` are numbered and bounded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.left = allowed(path.stat().st_size, TIMES_TEXT)

    def __enter__(self) -> "Converted":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UnicodeDecodeError | OverflowError):
            raise DataError(
                f"{self.path}: a cell after row {self.number} does not fit its type: {clause(error)}. "
                "Write the file again."
            ) from error
        if isinstance(error, pa.ArrowException | OSError | ValueError) and not isinstance(error, DataError):
            form = "Arrow" if ".arrow" in self.path.name.lower() else "Parquet"
            raise DataError(f"{self.path}: is not a complete {form} file: {clause(error)}. Write it again.") from error

    def rows(self, batches: Iterator[pa.RecordBatch]) -> NumberedRows:
        """Every row. Raises DataError for one that is too long, and if they expand too much for the file."""
        for batch in batches:
            for part in self._parts(batch):
                for row in part.to_pylist():
                    self.number += 1
                    yield self.number, row
        if not self.number:
            raise DataError(f"{self.path}: contains no rows. Give a file with at least one row.")

    def _parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if not batch.num_rows:
            return
        sizes = [_longest(column) for column in batch.columns]
        if max(sizes, default=0) > MAX_ROW:
            raise too_long(f"{self.path}, a row after {self.number}")
        total = sum(_written_out(column) for column in batch.columns)
        self.left -= total
        if self.left < 0:
            refuse_unpacked(self.path, allowed(self.path.stat().st_size, TIMES_TEXT))
        rows = max(1, batch.num_rows * AT_ONCE // max(total, 1))
        yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def _require_distinct(path: Path, names: list[str]) -> None:
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise DataError(f"{path}: names the column '{repeated[:80]}' twice. Rename one.")


def _chunks(metadata: pq.FileMetaData) -> Iterator[pq.ColumnChunkMetaData]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        yield from (group.column(column) for column in range(group.num_columns))


def _require_small(path: Path, metadata: pq.FileMetaData) -> None:
    """Raise DataError for a column that expands to far more than its size in the file."""
    size = path.stat().st_size
    for chunk in _chunks(metadata):
        most = allowed(max(0, chunk.total_compressed_size), TIMES_COLUMN)
        if chunk.total_uncompressed_size > min(most, allowed(size, TIMES_COLUMN)):
            refuse_unpacked(path, most)
        # a list of numbers is in memory as a whole, with its offsets
        width = LISTED_BYTES if "." in chunk.path_in_schema else 1
        if chunk.num_values * width > allowed(size, TIMES_TEXT):
            refuse_unpacked(path, ANY_FILE)


def _repeated_text(metadata: pq.FileMetaData, schema: pa.Schema) -> tuple[list[str], bool]:
    """Text columns that are stored once and repeated by number, to be read that way; and whether some are in lists."""
    repeated = {
        chunk.path_in_schema
        for chunk in _chunks(metadata)
        if chunk.physical_type == "BYTE_ARRAY" and DICTIONARIES & set(chunk.encodings)
    }
    flat = {name for name in schema.names if name in repeated}
    text = sorted(name for name in flat if pa.types.is_string(schema.field(name).type))
    return text, len(flat) < len(repeated)


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _longest(column: pa.Array) -> int:
    """Characters of the longest text in a column, or values of its longest list."""
    if pa.types.is_dictionary(column.type):
        return _longest(column.dictionary)
    if _is_text(column.type):
        lengths = pc.binary_length(column)
        longest = pc.max(lengths).as_py() or 0
        if longest <= MAX_ROW or "binary" in str(column.type):
            return int(longest)
        return int(pc.max(pc.utf8_length(column)).as_py() or 0)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return max(int(pc.max(pc.list_value_length(column)).as_py() or 0), _longest(column.flatten()))
    if pa.types.is_struct(column.type):
        return max((_longest(field) for field in column.flatten()), default=0)
    return 0


def _written_out(column: pa.Array) -> int:
    """Bytes of a column's cells, counting repeated ones each time."""
    if pa.types.is_dictionary(column.type):
        if not _is_text(column.type.value_type):
            return int(column.nbytes)
        lengths = pc.binary_length(column.dictionary).take(column.indices)
        return int(pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0)
    return int(column.nbytes)
