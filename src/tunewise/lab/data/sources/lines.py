"""The lines of a text file, each bounded in length, without NUL, and never a file of blank lines alone."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tunewise.errors import DataError
from tunewise.lab.data.sources.limits import MAX_BLANK_LINES, MAX_ROW, Unpacked, too_long

Content = Unpacked | io.BufferedReader  # of a file, unpacked
NumberedRows = Iterator[tuple[int, dict[str, Any]]]  # each with its place in the file, from 1


def lines(path: Path, file: Content, newline: Literal["", "\n"]) -> Iterator[str]:
    """The lines of a text with their ends. `newline`: "\n": nothing else ends a line; "": also a carriage return."""
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
    """For a file that is blank for longer than any is by mistake."""
    return DataError(
        f"{place}: more than {MAX_BLANK_LINES:,} blank lines stand one after another. Remove them from the file."
    )


def refuse_nul(place: str, text: str) -> None:
    """Raises DataError for text with NUL characters."""
    if "\0" in text:
        raise DataError(f"{place}: holds NUL bytes, so it is binary or UTF-16. Save it as UTF-8 text.")
