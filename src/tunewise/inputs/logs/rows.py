"""Columns of a file of rows: JSON Lines, CSV or Parquet. A row that cannot be read is named by its number.

pyarrow reads what it can, which takes seconds for millions of rows. What it refuses is read again line by line, and
either taken (ids that are texts in some rows and numbers in others) or refused with the number of the line.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json

from tunewise.errors import DataError, clause
from tunewise.storage.files import read_table
from tunewise.text.suggest import listed

TABLES = (".jsonl", ".csv", ".parquet")
BLOCK = 32 * 2**20  # bytes; a line must fit
FIRST_LINE = {".jsonl": 1, ".csv": 2}  # of the first row
LARGEST = 1e100  # of a score; sums and squares of larger ones are not finite


def first_row(path: Path) -> dict[str, Any]:
    """The first row of a file of JSON Lines. Raises DataError."""
    for _, row in _json_rows(path):
        return row
    raise DataError(f"{path} is empty. Give a log with one line per item.")


def column_names(path: Path) -> list[str]:
    """The columns of a file. Raises DataError."""
    if path.suffix == ".jsonl":
        return list(first_row(path))
    return list(_whole(path).column_names)


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """These columns, in this order; 'doc.group' is the key `group` of the object `doc`. Raises DataError."""
    if path.suffix == ".jsonl":
        return _read_json(path, names)
    table = _whole(path)
    if lacking := [name for name in names if name not in table.column_names]:
        raise DataError(f"{path} has no column {listed(lacking)}. It has: {listed(table.column_names)}.")
    return table.select(list(names))


def texts(column: pa.ChunkedArray, path: Path, name: str) -> pa.Array:
    """A column as texts. Raises DataError at a missing value."""
    _require_all(column, path, name)
    found = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    try:
        return found if pa.types.is_string(found.type) else pc.cast(found, pa.string())
    except pa.ArrowException:
        raise DataError(f"{path}: {name} holds {found.type}, which is not text. Save the file as UTF-8 text.") from None


def numbers(column: pa.ChunkedArray, path: Path, name: str) -> npt.NDArray[np.float64]:
    """A column as finite numbers; true is 1. Raises DataError with the first line that holds something else."""
    _require_all(column, path, name)
    try:
        values = pc.cast(column, pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for place, value in enumerate(column.to_pylist()):
            _require_number(value, path, name, place)
        raise DataError(f"{path}: {name} holds {column.type}, not numbers.") from None
    if len(wrong := np.flatnonzero(~(np.abs(values) <= LARGEST))):
        place = int(wrong[0])
        what = f"larger than {LARGEST:g}" if np.isfinite(values[place]) else "not a finite number"
        raise DataError(f"{_line(path, place)}: {name} is {values[place]}, {what}. Score that item again.")
    return np.asarray(values, dtype=np.float64)


def _require_number(value: object, path: Path, name: str, place: int) -> None:
    try:
        float(str(value))
    except ValueError:
        raise DataError(f"{_line(path, place)}: {name} is {value!r:.60}, not a number.") from None


def _require_all(column: pa.ChunkedArray, path: Path, name: str) -> None:
    if column.null_count:
        place = pc.index(pc.is_null(column), True).as_py()
        raise DataError(f"{_line(path, place)}: {name} is missing. Every row needs it.")


def _line(path: Path, place: int) -> str:
    kind = "line" if path.suffix in FIRST_LINE else "row"
    return f"{path}, {kind} {place + FIRST_LINE.get(path.suffix, 1):,}"


# --- the formats


def _whole(path: Path) -> pa.Table:
    """The table of a CSV or Parquet file."""
    try:
        table = read_table(path) if path.suffix == ".parquet" else pa_csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {clause(error)}.") from error
    names = table.column_names
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise DataError(f"{path} has the column {listed(twice)} more than once. Give every column a name of its own.")
    return table


def _read_json(path: Path, names: Sequence[str]) -> pa.Table:
    first = first_row(path)
    schema = _schema(first, names)
    options = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        found = pa_json.read_json(path, pa_json.ReadOptions(block_size=BLOCK), options)
        return pa.table({name: _column(found, name) for name in names})
    except (OSError, pa.ArrowException):
        rows = list(_json_rows(path))
        return pa.table({name: _from_objects([_value(row, name) for _, row in rows], path, name) for name in names})


def _schema(row: dict[str, Any], names: Sequence[str]) -> pa.Schema:
    kinds = {name: _type_of(_value(row, name)) for name in names}
    inner: dict[str, list[tuple[str, pa.DataType]]] = {}
    for name, kind in kinds.items():
        if name not in row and "." in name:
            outer, _, key = name.partition(".")
            inner.setdefault(outer, []).append((key, kind))
    flat = [(name, kind) for name, kind in kinds.items() if name in row or "." not in name]
    return pa.schema([*flat, *((outer, pa.struct(keys)) for outer, keys in inner.items())])


def _type_of(value: object) -> pa.DataType:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int | float):
        return pa.float64() if isinstance(value, float) else pa.int64()
    return pa.list_(pa.float64()) if isinstance(value, list) else pa.string()


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    outer, _, key = name.partition(".")
    return table[name] if name in table.column_names else pc.struct_field(table[outer], key)


def _value(row: dict[str, Any], name: str) -> Any:
    outer, _, key = name.partition(".")
    inner = row.get(outer)
    return inner.get(key) if name not in row and key and isinstance(inner, dict) else row.get(name)


def _from_objects(values: list[Any], path: Path, name: str) -> pa.ChunkedArray:
    for place, value in enumerate(values):
        if isinstance(value, dict):
            raise DataError(f"{_line(path, place)}: {name} is an object, not a text or a number.")
    try:
        return pa.chunked_array([pa.array(values)])
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.chunked_array([pa.array([None if value is None else str(value) for value in values], pa.string())])


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of every line that is not empty."""
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors begin a file with a mark
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}, line {number:,} is not JSON: {clause(error)}.") from error
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {number:,} is not a JSON object, but {type(row).__name__}.")
                yield number, row
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {clause(error)}.") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {clause(error.strerror or error)}.") from error


def rows_at(path: Path, places: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The rows of a file at these places, from 0; only these are parsed. Raises DataError."""
    wanted = set(places)
    if path.suffix != ".jsonl":
        table = _whole(path)
        return {place: table.slice(place, 1).to_pylist()[0] for place in sorted(wanted)}
    found: dict[int, dict[str, Any]] = {}
    place = 0
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if not line.strip():
                continue
            if place in wanted:
                found[place] = json.loads(line)
                if len(found) == len(wanted):
                    break
            place += 1
    return found
