"""Rows of CSV and TSV with commas, tabs, semicolons or bars, detected from the header or set by the study."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tunewise.errors import DataError
from tunewise.lab.data.sources.limits import MAX_ROW, too_long
from tunewise.lab.data.sources.lines import Content, NumberedRows, lines
from tunewise.text.suggest import listed

OTHERS = ("\t", ";", "|")  # detected from the header if it contains no comma
NAMES = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}


def csv_rows(path: Path, open_file: Callable[[], Content], delimiter: str | None, is_tsv: bool) -> NumberedRows:
    """Rows below the header, each with its first line. `delimiter` None: detected from the suffix or the header.

    Raises DataError.
    """
    with open_file() as file:
        between = delimiter or ("\t" if is_tsv else _told_by_header(lines(path, file, "")))
    plain = between == "\t"
    if plain:
        with open_file() as file:
            plain = _quotes_are_text(lines(path, file, ""))
    with open_file() as file:
        yield from _rows(path, lines(path, file, ""), between, plain)


def _told_by_header(content: Iterator[str]) -> str:
    """A comma, unless the header has none, has one other delimiter, and the next line has as many of that."""
    filled = (line for line in content if line.strip())
    header, first = next(filled, ""), next(filled, "")
    found = [mark for mark in OTHERS if mark in header]
    if "," in header or len(found) != 1:
        return ","
    cells = [len(next(csv.reader([line], delimiter=found[0]), [])) for line in (header, first)] if first else [1, 0]
    return found[0] if cells[0] == cells[1] else ","


def _quotes_are_text(content: Iterable[str]) -> bool:
    """True if quotes in a tab-separated file are text: a cell begins with one but does not end with its pair.

    Programs either quote every cell that needs it, doubling inner quotes, or write quotes unchanged.
    """
    return any('"' in line and any(map(_is_unpaired, line.rstrip("\r\n").split("\t"))) for line in content)


def _is_unpaired(cell: str) -> bool:
    if not cell.startswith('"'):
        return False
    inner = cell[1:-1].replace('""', "")
    return len(cell) < 2 or not cell.endswith('"') or '"' in inner


def _rows(path: Path, content: Iterator[str], delimiter: str, plain: bool) -> NumberedRows:
    csv.field_size_limit(MAX_ROW)  # the default refuses cells of over 128 KiB
    if plain:
        reader = csv.reader(content, strict=True, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(content, strict=True, delimiter=delimiter)
    header: list[str] = []
    has_rows = False
    while True:
        number = reader.line_num + 1
        place = f"{path}, line {number}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if "field limit" in str(error):
                raise too_long(place) from error
            raise DataError(f"{place}: broken CSV: {error}. Enclose cells that contain quotes in quotes.") from error
        if cells is None:
            break
        if not cells or (not header and not any(cell.strip() for cell in cells)):
            continue
        if not header:
            header = _checked_header(place, cells)
            continue
        if len(cells) != len(header):
            raise _other_count(place, header, cells, delimiter, plain)
        has_rows = True
        yield number, dict(zip(header, cells, strict=True))
    if header and not has_rows:
        raise DataError(f"{path}: contains no rows, only a header. Give a file with at least one row.")


def _checked_header(place: str, cells: list[str]) -> list[str]:
    repeated = next((name for name, count in Counter(cells).items() if count > 1), None)
    if repeated is not None:
        raise DataError(f"{place}: the header names the column '{repeated[:80]}' twice. Rename one.")
    return cells


def _other_count(place: str, header: list[str], cells: list[str], delimiter: str, plain: bool) -> DataError:
    between = NAMES.get(delimiter, f"'{delimiter}'")
    advice = f"Remove {between} and line breaks from the cells" if plain else f"Put cells with {between} in quotes"
    return DataError(
        f"{place}: has {len(cells)} cells, but the header has {len(header)} ({listed(header)}). {advice}, or set "
        "data.delimiter to the separator of the cells."
    )
