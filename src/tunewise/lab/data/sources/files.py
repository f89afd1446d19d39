"""Streamed rows of one file: jsonl, json, csv, tsv, parquet, arrow, txt, and each with .gz.

The suffix determines the format. Text is UTF-8, with or without a byte order mark. Every mistake is a DataError that
names the file and the line. Except for Parquet in gzip, memory holds no more of a file than a row and a read-ahead
buffer; limits.py bounds the cost of a file.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tunewise.errors import DataError
from tunewise.inputs.data_folder import KINDS, kind_of
from tunewise.lab.data.sources.csv_rows import csv_rows
from tunewise.lab.data.sources.json_rows import json_array, json_lines
from tunewise.lab.data.sources.limits import MAX_BLANK_LINES, MAX_ROW, TIMES_PARQUET_GZ, TIMES_TEXT, Unpacked
from tunewise.lab.data.sources.lines import Content, NumberedRows, refuse_nul, too_many_blank
from tunewise.lab.data.sources.table_rows import arrow_rows, parquet_rows
from tunewise.text.suggest import near_miss

READ_AHEAD = 2**20  # characters of a txt file

Unit = Literal["line", "row", "document"]
FORMATS = {".jsonl": json_lines, ".json": json_array, ".parquet": parquet_rows, ".arrow": arrow_rows}


def read_file(path: Path, document_separator: str, delimiter: str | None = None) -> NumberedRows:
    """Rows of a file with their places, in units of `counted_in`. Raises DataError."""
    suffix = kind_of(path)
    if suffix not in KINDS:
        raise DataError(
            f"{path}: files of kind '{path.suffix}' are not supported.{near_miss(suffix, KINDS)} "
            f"Known: {', '.join(KINDS)}, and .gz of each."
        )
    found = False
    with _told(path):
        for row in _rows(path, suffix, document_separator, delimiter):
            found = True
            yield row
    if not found:
        raise DataError(f"{path}: is empty. Give a file with at least one row.")


def _rows(path: Path, suffix: str, document_separator: str, delimiter: str | None) -> NumberedRows:
    if suffix in (".csv", ".tsv"):
        yield from csv_rows(path, lambda: _opened(path), delimiter, suffix == ".tsv")
        return
    with _opened(path) as file:
        yield from _documents(path, file, document_separator) if suffix == ".txt" else FORMATS[suffix](path, file)


def counted_in(path: Path) -> Unit:
    """Unit in which rows are numbered."""
    units: dict[str, Unit] = {".jsonl": "line", ".csv": "line", ".tsv": "line", ".txt": "document"}
    return units.get(kind_of(path), "row")


def require_file(path: Path) -> None:
    """Raise DataError with the nearest name if there is no such file."""
    if path.is_file():
        return
    if path.is_dir():
        raise DataError(f"{path}: is a folder, but a file is needed here.")
    if not path.parent.is_dir():
        raise DataError(f"no such file: {path}. Its folder {path.parent} does not exist either.")
    if path.exists():
        raise DataError(f"{path}: is not a regular file (a pipe or a device). Give a file.")
    near = near_miss(path.name, (file.name for file in path.parent.iterdir()))
    raise DataError(f"no such file: {path}.{near} A dataset on the hub is written owner/name.")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn errors of reading into a DataError that names the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: is not a complete gzip file ({error}). Compress it again, or give it uncompressed."
        ) from error
    except UnicodeDecodeError as error:
        with _told(path):  # a second reading of a compressed file may find an error further on
            raise _not_utf8(path) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _opened(path: Path) -> Content:
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    return Unpacked(path, TIMES_PARQUET_GZ if kind_of(path) in (".parquet", ".arrow") else TIMES_TEXT)


def _not_utf8(path: Path) -> DataError:
    """Error that names the first invalid UTF-8 byte; the file is read again, since decoding is done in parts."""
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


# --- text ----------------------------------------------------------------------------------------


def _documents(path: Path, file: Content, separator: str) -> NumberedRows:
    """Texts between the separators, without those of white space alone."""
    number = blank = 0
    for part in _parts(path, file, separator):
        if part and not part.isspace():
            number += 1
            blank = 0
            yield number, {"text": part.strip("\n")}
            continue
        blank += 1
        if blank > MAX_BLANK_LINES:
            raise too_many_blank(f"{path}, after document {number}")


def _parts(path: Path, file: Content, separator: str) -> Iterator[str]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    line, waiting = 1, ""
    while read := text.read(READ_AHEAD):
        if "\0" in read:
            refuse_nul(f"{path}, line {line + read[: read.index(chr(0))].count(chr(10))}", read)
        line += read.count("\n")
        waiting += read
        end = "\r" if waiting.endswith("\r") else ""  # possibly half of a line ending
        *parts, waiting = (waiting.removesuffix(end).replace("\r\n", "\n")).split(separator)
        waiting += end
        yield from parts
        if len(waiting) > MAX_ROW:
            raise DataError(
                f"{path}: a document is longer than the limit of {MAX_ROW:,} characters. "
                f"Set data.document_separator to the text between documents (now {separator!r})."
            )
    yield waiting
