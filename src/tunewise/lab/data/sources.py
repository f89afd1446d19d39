"""The rows of one source: a file, a folder or hub id of the `datasets` library, or text that comes with Python.

Files are told by their suffix: jsonl, json (an array of objects), csv, parquet, txt, and each of them with .gz behind
it. Text is UTF-8, with or without a byte order mark. Every mistake is a DataError that names the file and the line.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tunewise.disk import file_hash, files_below
from tunewise.errors import DataError
from tunewise.lab.data.builtin import BUILTINS
from tunewise.registry import lookup, near_miss
from tunewise.spec import SPLIT_NAMES, Split

BUILTIN = "builtin:"
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?::([\w.-]+))?")  # owner/name, or owner/name:configuration


@dataclass(frozen=True)
class Table:
    """The rows of one source in its own order, and where each one stands there."""

    source: str  # as the study names it
    counted: Literal["line", "row", "document"]
    rows: list[dict[str, Any]]
    numbers: list[int]  # from 1, one per row, in units of `counted`

    def place(self, index: int) -> str:
        """'train.jsonl, line 17'."""
        return f"{self.source}, {self.counted} {self.numbers[index]}"


def read_source(source: str, split: Split, document_separator: str) -> Table:
    """All rows of `source`, at least one.

    `split` chooses among the splits of a dataset (folder or hub id), `document_separator` cuts a txt file into rows
    {"text": document}. Raises DataError, and SpecError for an unknown builtin source.
    """
    if source.startswith(BUILTIN):
        return _table(source, "row", list(enumerate(_builtin_rows(source), start=1)))
    if _is_dataset(source):
        return _read_dataset(source, split)
    return _read_file(Path(source), document_separator)


def first_row(source: str, document_separator: str) -> dict[str, Any]:
    """The first row of a training source. Raises what `read_source` raises."""
    if source.startswith(BUILTIN):
        return next(_builtin_rows(source))
    return read_source(source, "train", document_separator).rows[0]


def source_fingerprint(source: str) -> str:
    """What tells this source from any other: kind and SHA-256 of the contents, of a hub dataset its id alone.

    So a study keeps the state of a hub dataset that it first loaded. Raises DataError where there is no such file.
    """
    if source.startswith(BUILTIN):
        return f"{source} of Python {sys.version}"
    path = Path(source)
    if path.is_dir():
        files = "\n".join(f"{file.relative_to(path)} {file_hash(file)}" for file in files_below(path))
        return f"folder {hashlib.sha256(files.encode()).hexdigest()}"
    return f"hub {source}" if _is_dataset(source) else file_fingerprint(path)


def file_fingerprint(path: Path) -> str:
    """Kind and SHA-256 of one file. Raises DataError where there is none."""
    _require_file(path)
    return f"{_suffix(path)} {file_hash(path)}"


def _table(source: str, counted: Literal["line", "row", "document"], rows: list[tuple[int, dict[str, Any]]]) -> Table:
    if not rows:
        raise DataError(f"{source}: holds no rows. Give a source with at least one.")
    return Table(source, counted, [row for _, row in rows], [number for number, _ in rows])


def _builtin_rows(source: str) -> Iterator[dict[str, Any]]:
    return lookup(BUILTINS, source.removeprefix(BUILTIN), "builtin source")()


# --- files ---------------------------------------------------------------------------------------


def _read_file(path: Path, document_separator: str) -> Table:
    _require_file(path)
    suffix = _suffix(path)
    if suffix not in FORMATS and suffix != ".txt":
        known = [*FORMATS, ".txt"]
        raise DataError(
            f"{path}: files of kind '{path.suffix}' are not read.{near_miss(suffix, known)} "
            f"Known: {', '.join(known)}, and .gz of each."
        )
    content = _contents(path)
    if not content.strip():
        raise DataError(f"{path}: is empty. Give a file with at least one row.")
    if suffix == ".txt":
        return _parse_documents(str(path), content, document_separator)
    return FORMATS[suffix](str(path), content)


def _require_file(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        raise DataError(f"{path}: is a folder, but a file is needed here.")
    if not path.parent.is_dir():
        raise DataError(f"no such file: {path}. Its folder {path.parent} does not exist either.")
    near = near_miss(path.name, (file.name for file in path.parent.iterdir()))
    raise DataError(f"no such file: {path}.{near} A dataset of the hub is written owner/name.")


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _contents(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix.lower() == ".gz" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is not a whole gzip file ({error}). Pack it again, or give it unpacked.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def _decode(source: str, content: bytes) -> str:
    junk = content.find(b"\0")
    if junk >= 0:
        line = content.count(b"\n", 0, junk) + 1
        raise DataError(f"{source}, line {line}: holds NUL bytes, so it is binary or UTF-16. Save it as UTF-8 text.")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise DataError(f"{source}, line {line}: byte 0x{byte:02x} is not UTF-8. Save it as UTF-8 text.") from error


def _parse_json_lines(source: str, content: bytes) -> Table:
    rows = []
    # not splitlines(): JSON strings may hold U+2028 and other separators of lines
    for number, line in enumerate(_decode(source, content).split("\n"), start=1):
        if not line.strip():
            continue
        rows.append((number, _object(_parse(f"{source}, line {number}", line), f"{source}, line {number}")))
    return _table(source, "line", rows)


def _parse_json(source: str, content: bytes) -> Table:
    try:
        values = json.loads(_decode(source, content))
    except json.JSONDecodeError as error:
        advice = " One object per line? Then name the file .jsonl." if error.msg == "Extra data" else ""
        raise DataError(f"{source}, line {error.lineno}: broken JSON: {error.msg}.{advice}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: broken JSON: {error}.") from error
    if not isinstance(values, list):
        raise DataError(f"{source}: must hold an array of objects, but holds {_json_kind(values)}.")
    rows = [(number, _object(value, f"{source}, row {number}")) for number, value in enumerate(values, start=1)]
    return _table(source, "row", rows)


def _parse(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: broken JSON: {error.msg} at column {error.colno}. Each line must be one object, complete."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of over 4,300 digits; brackets nested too deep
        raise DataError(f"{place}: broken JSON: {error}.") from error


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f'{place}: a row must be an object such as {{"text": "..."}}, but is {_json_kind(value)}.')
    return value


def _json_kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _parse_csv(source: str, content: bytes) -> Table:
    csv.field_size_limit(2**31 - 1)  # the default refuses cells of over 128 KiB; a C long may have just 32 bits
    reader = csv.reader(io.StringIO(_decode(source, content), newline=""), strict=True)
    rows: list[tuple[int, dict[str, Any]]] = []
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return _table(source, "line", rows)
        except csv.Error as error:
            raise DataError(
                f"{source}, line {number}: broken CSV: {error}. Put cells with quotes in quotes."
            ) from error
        if not cells:
            continue
        if not header:
            header = _header(source, cells)
            continue
        if len(cells) != len(header):
            raise DataError(
                f"{source}, line {number}: has {len(cells)} cells, but the header has {len(header)} "
                f"({', '.join(header)}). Put cells with commas in quotes."
            )
        rows.append((number, dict(zip(header, cells, strict=True))))


def _header(source: str, cells: list[str]) -> list[str]:
    repeated = [name for name in dict.fromkeys(cells) if cells.count(name) > 1]
    if repeated:
        raise DataError(f"{source}, line 1: the header names the column '{repeated[0]}' twice. Rename one.")
    return cells


def _parse_parquet(source: str, content: bytes) -> Table:
    try:
        rows = pq.read_table(io.BytesIO(content)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source}: is not a whole Parquet file: {error}.") from error
    return _table(source, "row", list(enumerate(rows, start=1)))


def _parse_documents(source: str, content: bytes, separator: str) -> Table:
    text = _decode(source, content).replace("\r\n", "\n")
    documents = [{"text": part.strip("\n")} for part in text.split(separator) if part.strip()]
    return _table(source, "document", list(enumerate(documents, start=1)))


FORMATS: dict[str, Callable[[str, bytes], Table]] = {
    ".jsonl": _parse_json_lines,
    ".json": _parse_json,
    ".csv": _parse_csv,
    ".parquet": _parse_parquet,
}


# --- datasets ------------------------------------------------------------------------------------


def _is_dataset(source: str) -> bool:
    path = Path(source)
    if path.exists():
        return path.is_dir()
    known = _suffix(path) in (*FORMATS, ".txt")
    return not known and HUB_ID.fullmatch(source) is not None


def _read_dataset(source: str, split: Split) -> Table:
    import datasets  # takes seconds, and most studies read files

    matched = None if Path(source).is_dir() else HUB_ID.fullmatch(source)
    path, configuration = matched.groups() if matched else (source, None)
    try:
        there = datasets.get_dataset_split_names(path, configuration)
        name = next((name for name in SPLIT_NAMES[split] if name in there), None)
        if name is None:
            raise DataError(
                f"{source}: has no split for data.{split} ({' or '.join(SPLIT_NAMES[split])}). It has: "
                f"{', '.join(there)}. Leave data.{split} out to have it split off train."
            )
        dataset = datasets.load_dataset(path, configuration, split=name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise DataError(
            f"{source}: is no file, and cannot be loaded as a dataset: {reason}. "
            "Check the name (a folder, owner/name or owner/name:configuration) and the network."
        ) from error
    return _table(source, "row", list(enumerate(_with_label_names(dataset), start=1)))


def _with_label_names(dataset: Any) -> list[dict[str, Any]]:
    """Rows in which the classes that a dataset stores as numbers have their names; None: not labelled (-1)."""
    import datasets

    rows: list[dict[str, Any]] = dataset.to_list()
    classes = {name: kind.names for name, kind in dataset.features.items() if isinstance(kind, datasets.ClassLabel)}
    for row in rows:
        for column, names in classes.items():
            number = row[column]
            row[column] = None if number is None or number < 0 else names[number]
    return rows
