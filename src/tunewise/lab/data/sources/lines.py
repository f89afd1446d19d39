"""Lines of a text file, each of bounded length, without NUL, and not endlessly blank."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tunewise.errors import DataError
from tunewise.lab.data.sources.limits import MAX_BLANK_LINES, MAX_ROW, Unpacked, too_long

Content = Unpacked | io.BufferedReader  # of a file, decompressed
NumberedRows = Iterator[tuple[int, dict[str, Any]]]  # with their places in the file, from 1


def lines(path: Path, file: Content, newline: Literal["", "\n"]) -> Iterator[str]:
    """Lines of a text with their endings. `newline`: "\n": nothing else ends a line; "": also a carriage return."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    blank = 0
    for number, line in enumerate(iter(lambda: text.readline(MAX_ROW + 1), ""), start=1):
        if line.isspace():
            blank += 1
            if blank > MAX_BLANK_LINES:
                raise too_many_blank(f"{path}, line {number}")
        else:
            blank = 0
            if len(line) > MAX_ROW:
                raise too_long(f"{path}, line {number}")
            if "\0" in line:
                refuse_nul(f"{path}, line {number}", line)
        yield line


def too_many_blank(place: str) -> DataError:
    """Error for a file with more consecutive blank lines than a mistake explains."""
    return DataError(f"{place}: more than {MAX_BLANK_LINES:,} consecutive blank lines. Remove them from the file.")


def refuse_nul(place: str, text: str) -> None:
    """Raise DataError for text with NUL characters."""
    if "\0" in text:
        raise DataError(f"{place}: contains NUL bytes, so it is binary or UTF-16. Save it as UTF-8 text.")
