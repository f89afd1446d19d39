"""The rows of one file, as they stream by: jsonl, json (an array of objects), csv, parquet, txt, and each with .gz.

Told by the suffix. Text is UTF-8, with or without a byte order mark. Every mistake is a DataError that names the file
and the line. But for json (and parquet in gz), no more of a file is in memory than a row and what was read ahead.
"""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tunewise.errors import DataError
from tunewise.registry import near_miss

MAX_ROW = 2**24  # characters of a line, a cell or a document; its tokens take a hundred times that in memory
MAX_JSON = 2**30  # bytes of a json file, which is read whole
READ_AHEAD = 2**20  # characters of a txt file
BATCH_ROWS = 512  # of a Parquet file or a dataset

Content = gzip.GzipFile | io.BufferedReader  # of a file, unpacked
Unit = Literal["line", "row", "document"]
NumberedRows = Iterator[tuple[int, dict[str, Any]]]  # each with its place in the file, from 1


def read_file(path: Path, document_separator: str) -> NumberedRows:
    """The rows of a file and where each one stands, in units of `counted_in`. Raises DataError."""
    suffix = kind_of(path)
    if suffix not in FORMATS and suffix != ".txt":
        known = [*FORMATS, ".txt"]
        raise DataError(
            f"{path}: files of kind '{path.suffix}' are not read.{near_miss(suffix, known)} "
            f"Known: {', '.join(known)}, and .gz of each."
        )
    found = False
    with _told(path), _opened(path) as file:
        rows = _documents(path, file, document_separator) if suffix == ".txt" else FORMATS[suffix](path, file)
        for row in rows:
            found = True
            yield row
    if not found:
        raise DataError(f"{path}: is empty. Give a file with at least one row.")


def counted_in(path: Path) -> Unit:
    """What the numbers of the rows count."""
    units: dict[str, Unit] = {".jsonl": "line", ".csv": "line", ".txt": "document"}
    return units.get(kind_of(path), "row")


def kind_of(path: Path) -> str:
    """The suffix that tells the format: that before .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def require_file(path: Path) -> None:
    """Raises DataError, with the nearest name, where there is no such file."""
    if path.is_file():
        return
    if path.is_dir():
        raise DataError(f"{path}: is a folder, but a file is needed here.")
    if not path.parent.is_dir():
        raise DataError(f"no such file: {path}. Its folder {path.parent} does not exist either.")
    if path.exists():
        raise DataError(f"{path}: is no regular file (a pipe or a device). Give a file.")
    near = near_miss(path.name, (file.name for file in path.parent.iterdir()))
    raise DataError(f"no such file: {path}.{near} A dataset of the hub is written owner/name.")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What reading may raise, as a DataError that names the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is not a whole gzip file ({error}). Pack it again, or give it unpacked.") from error
    except UnicodeDecodeError as error:
        with _told(path):  # a packed file, read once more, may turn out to be broken further on
            raise _not_utf8(path) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _opened(path: Path) -> Content:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _not_utf8(path: Path) -> DataError:
    """Where the first byte is that is no UTF-8: the file is read once more, since decoding is done in pieces."""
    with _opened(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(4 * MAX_ROW), b""), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    return DataError(f"{path}, line {number}: is UTF-16 or UTF-32. Save it as UTF-8 text.")
                byte = line[error.start]
                return DataError(f"{path}, line {number}: byte 0x{byte:02x} is not UTF-8. Save it as UTF-8 text.")
    return DataError(f"{path}: is not UTF-8 text. Save it as UTF-8.")


def _lines(path: Path, file: Content, newline: Literal["", "\n"]) -> Iterator[str]:
    """The lines of a text with their ends. `newline`: "\n": nothing else ends a line; "": a carriage return, too."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    for number, line in enumerate(iter(lambda: text.readline(MAX_ROW + 1), ""), start=1):
        place = f"{path}, line {number}"
        if len(line) > MAX_ROW:
            raise _too_long(place)
        _refuse_nul(place, line)
        yield line


def _too_long(place: str) -> DataError:
    return DataError(
        f"{place}: is longer than {MAX_ROW:,} characters, which is more than one row may have. "
        "Cut it into rows; models read some thousand tokens at once."
    )


def _refuse_nul(place: str, text: str) -> None:
    if "\0" in text:
        raise DataError(f"{place}: holds NUL bytes, so it is binary or UTF-16. Save it as UTF-8 text.")


# --- JSON ----------------------------------------------------------------------------------------


def _json_lines(path: Path, file: Content) -> NumberedRows:
    # not any other end of line: JSON strings may hold U+2028 and others
    for number, line in enumerate(_lines(path, file, "\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            value = _parse(place, line.rstrip("\r\n"))
            advice = " Is it one array of objects? Then name the file .json." if isinstance(value, list) else ""
            yield number, _object(value, place, advice)


def _json(path: Path, file: Content) -> NumberedRows:
    content = file.read(MAX_JSON + 1)
    if len(content) > MAX_JSON:
        raise DataError(
            f"{path}: has more than {MAX_JSON:,} bytes, and an array is read whole. "
            "Write one object per line, and name it .jsonl."
        )
    text = content.decode("utf-8-sig")
    if not text.strip():
        return
    for number, line in enumerate(text.split("\n"), start=1):
        _refuse_nul(f"{path}, line {number}", line)
    try:
        values = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        advice = " One object per line? Then name the file .jsonl." if error.msg == "Extra data" else ""
        raise DataError(f"{path}, line {error.lineno}: broken JSON: {error.msg}.{advice}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken JSON: {_reason(error)}.") from error
    if not isinstance(values, list):
        raise DataError(f"{path}: must hold an array of objects, but holds {_json_kind(values)}.")
    if not values:
        raise DataError(f"{path}: holds no rows. Give a file with at least one.")
    for number, value in enumerate(values, start=1):
        yield number, _object(value, f"{path}, row {number}")


def _parse(place: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: broken JSON: {error.msg} at column {error.colno}. "
            "Each line must be one object, complete and alone."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of over 4,300 digits; brackets nested too deep
        raise DataError(f"{place}: broken JSON: {_reason(error)}.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object. Raises ValueError where a name is given twice: the first value would be lost without a word."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    repeated = next(name for name in names if names.count(name) > 1)
    raise ValueError(f"an object names '{repeated[:80]}' twice, keep one")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return str(error).partition("; use sys.")[0]  # advice for programmers


def _object(value: Any, place: str, advice: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = _json_kind(value)
        raise DataError(f'{place}: a row must be an object such as {{"text": "..."}}, but is {kind}.{advice}')
    return value


def _json_kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


# --- other formats -------------------------------------------------------------------------------


def _csv(path: Path, file: Content) -> NumberedRows:
    csv.field_size_limit(MAX_ROW)  # the default refuses cells of over 128 KiB
    reader = csv.reader(_lines(path, file, ""), strict=True)
    header: list[str] = []
    has_rows = False
    while True:
        number = reader.line_num + 1
        place = f"{path}, line {number}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if "field limit" in str(error):
                raise _too_long(place) from error
            raise DataError(f"{place}: broken CSV: {error}. Put cells with quotes in quotes.") from error
        if cells is None:
            break
        if not cells or (not header and not any(cell.strip() for cell in cells)):
            continue
        if not header:
            header = _header(path, cells)
            continue
        if len(cells) != len(header):
            raise DataError(
                f"{place}: has {len(cells)} cells, but the header has {len(header)} "
                f"({', '.join(header)}). Put cells with commas in quotes."
            )
        has_rows = True
        yield number, dict(zip(header, cells, strict=True))
    if header and not has_rows:
        raise DataError(f"{path}: holds no rows, only a header. Give a file with at least one.")


def _header(path: Path, cells: list[str]) -> list[str]:
    repeated = [name for name in dict.fromkeys(cells) if cells.count(name) > 1]
    if repeated:
        raise DataError(f"{path}, line 1: the header names the column '{repeated[0]}' twice. Rename one.")
    return cells


def _parquet(path: Path, file: Content) -> NumberedRows:
    if not file.peek(1):
        return
    content = io.BytesIO(file.read()) if isinstance(file, gzip.GzipFile) else file
    number = 0
    try:
        table = pq.ParquetFile(content)
        names = table.schema_arrow.names
        if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise DataError(f"{path}: names the column '{repeated[0]}' twice. Rename one.")
        for batch in table.iter_batches(batch_size=BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (UnicodeDecodeError, OverflowError) as error:
        raise DataError(
            f"{path}: a cell after row {number} cannot be read as its type says: {error}. Write the file again."
        ) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: is not a whole Parquet file: {str(error).rstrip('.')}. Write it again.") from error
    if not number:
        raise DataError(f"{path}: holds no rows. Give a file with at least one.")


def _documents(path: Path, file: Content, separator: str) -> NumberedRows:
    """What stands between the separators, white space alone left out."""
    number = 0
    for part in _parts(path, file, separator):
        if part.strip():
            number += 1
            yield number, {"text": part.strip("\n")}


def _parts(path: Path, file: Content, separator: str) -> Iterator[str]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    line, waiting = 1, ""
    while read := text.read(READ_AHEAD):
        if "\0" in read:
            _refuse_nul(f"{path}, line {line + read[: read.index(chr(0))].count(chr(10))}", read)
        line += read.count("\n")
        waiting += read
        end = "\r" if waiting.endswith("\r") else ""  # perhaps the half of a line's end
        *parts, waiting = (waiting.removesuffix(end).replace("\r\n", "\n")).split(separator)
        waiting += end
        yield from parts
        if len(waiting) > MAX_ROW:
            raise DataError(
                f"{path}: a document is longer than {MAX_ROW:,} characters, which is more than one may have. "
                f"Set data.document_separator to what stands between documents (now {separator!r})."
            )
    yield waiting


FORMATS: dict[str, Callable[[Path, Content], NumberedRows]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
