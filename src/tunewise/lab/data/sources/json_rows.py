"""Rows of JSON: one object per line, or an array of objects (or of lists), read one at a time."""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunewise.errors import DataError
from tunewise.lab.data.sources.limits import MAX_BLANK_LINES, MAX_ROW, too_long
from tunewise.lab.data.sources.lines import Content, NumberedRows, lines, refuse_nul, too_many_blank

READ_AHEAD = 2**20  # characters
SPACE = " \t\r\n"
BLANKS = re.compile(f"[{SPACE}]*")


def json_lines(path: Path, file: Content) -> NumberedRows:
    """Objects of a .jsonl file. Raises DataError."""
    # no other line ending: JSON strings may contain U+2028 and others
    for number, line in enumerate(lines(path, file, "\n"), start=1):
        if line.strip():
            yield (
                number,
                _of_line(line, f"{path}, line {number}", " Is it one array of objects? Then name the file .json."),
            )


def json_array(path: Path, file: Content) -> NumberedRows:
    """Rows of a .json file: of its array, or of its lines if it has one object per line. Raises DataError.

    A row that is a list has its cells under their positions: "0", "1", ...
    """
    stream = io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n")
    head, line = stream.readline(MAX_ROW + 1), 1
    while head and not head.strip():
        if line > MAX_BLANK_LINES:
            raise too_many_blank(f"{path}, line {line}")
        line += head.count("\n")
        head = stream.readline(MAX_ROW + 1)
    if not head:
        return
    if head.lstrip(SPACE).startswith("["):
        yield from _of_array(_Reader(path, stream, head, line))
    else:
        yield from _of_other(path, stream, head, line)


def _of_line(line: str, place: str, advice: str = "") -> dict[str, Any]:
    try:
        if line.startswith("\ufeff"):  # json.loads says so as well, and makes a decoder for every line
            raise json.JSONDecodeError("Unexpected UTF-8 BOM (decode using utf-8-sig)", line, 0)
        value = OBJECTS.decode(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: broken JSON: {error.msg} at column {error.colno}. Each line must be exactly one complete object."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of over 4,300 digits; brackets nested too deeply
        raise DataError(f"{place}: broken JSON: {_reason(error)}.") from error
    return _object(value, place, advice if isinstance(value, list) else "")


def _of_other(path: Path, stream: io.TextIOWrapper, head: str, line: int) -> NumberedRows:
    """Rows of a file that is not an array: one object per line, or an error."""
    rest = stream.readline(MAX_ROW + 1)
    second = line + 1
    while rest and not rest.strip():
        second += 1
        rest = stream.readline(MAX_ROW + 1)
    if not rest or not _is_object(head):
        _refuse_other(path, head + rest + stream.read(MAX_ROW), line)
    for number, row in _numbered(stream, head, line, rest, second):
        refuse_nul(f"{path}, line {number}", row)
        if len(row) > MAX_ROW:
            raise too_long(f"{path}, line {number}")
        if row.strip():
            yield number, _of_line(row, f"{path}, line {number}")


def _numbered(stream: io.TextIOWrapper, head: str, line: int, rest: str, second: int) -> Iterator[tuple[int, str]]:
    yield line, head
    yield second, rest
    yield from enumerate(iter(lambda: stream.readline(MAX_ROW + 1), ""), start=second + 1)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _refuse_other(path: Path, text: str, line: int) -> None:
    for number, part in enumerate(text.split("\n"), start=line):
        refuse_nul(f"{path}, line {number}", part)
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {line + error.lineno - 1}: broken JSON: {error.msg}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken JSON: {_reason(error)}.") from error
    raise DataError(f"{path}: must contain an array of objects, but contains {_kind(value)}.")


class _Reader:
    """A text of which only the needed part is in memory."""

    def __init__(self, path: Path, stream: io.TextIOWrapper, head: str, line: int) -> None:
        self.path, self.stream, self.text, self.place, self.line = path, stream, head, 0, line
        refuse_nul(f"{path}, line {line}", head)

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        self.line += self.text.count("\n", 0, self.place)
        self.text, self.place = self.text[self.place :], 0
        read = self.stream.read(max(READ_AHEAD, len(self.text)))
        if "\0" in read:
            line = self.line + self.text.count("\n") + read[: read.index("\0")].count("\n")
            refuse_nul(f"{self.path}, line {line}", read)
        self.text += read
        return bool(read)

    def peek(self) -> str:
        """The next character that is not white space; '' at the end."""
        while True:
            self.place = BLANKS.match(self.text, self.place).end()  # type: ignore[union-attr]  # the pattern also matches an empty text
            if self.place < len(self.text) or not self.more():
                return self.text[self.place : self.place + 1]

    def broken(self, message: str, place: int) -> DataError:
        """Error for invalid JSON at this place of the text."""
        line = self.line + self.text.count("\n", 0, place)
        return DataError(f"{self.path}, line {line}: broken JSON: {message}.")

    def value(self) -> Any:
        """The next value. Raises DataError."""
        while True:
            try:
                value, self.place = OBJECTS.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                if len(self.text) - self.place > 2 * MAX_ROW or not self.more():
                    raise self.broken(error.msg, self.place + error.pos) from error
                continue
            except (ValueError, RecursionError) as error:
                raise DataError(f"{self.path}: broken JSON: {_reason(error)}.") from error
            return value


def _of_array(reader: _Reader) -> NumberedRows:
    reader.peek()
    reader.place += 1  # the bracket
    number = 0
    following = reader.peek()
    while following != "]" or number:
        before = reader.place
        value = reader.value()
        number += 1
        place = f"{reader.path}, row {number}"
        if reader.place - before > MAX_ROW:
            raise too_long(place)
        if isinstance(value, list):
            value = {str(column): cell for column, cell in enumerate(value)}
        yield number, _object(value, place)
        following = reader.peek()
        if following == "]":
            break
        if following != ",":
            raise reader.broken("Expecting ',' delimiter", reader.place)
        reader.place += 1
        following = reader.peek()
        if following == "]":
            raise reader.broken("Expecting value", reader.place)
    reader.place += 1
    if reader.peek():
        raise reader.broken("Extra data", reader.place)
    if not number:
        raise DataError(f"{reader.path}: contains no rows. Give a file with at least one row.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object. Raises ValueError for duplicate names: the first value would be lost silently."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    raise ValueError(f"an object names '{repeated[:80]}' twice. Keep one")


OBJECTS = json.JSONDecoder(object_pairs_hook=_once)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).partition("; use sys.")[0]  # removes advice meant for programmers


def _object(value: Any, place: str, advice: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f'{place}: a row must be an object such as {{"text": "..."}}, but is {_kind(value)}.{advice}')
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
