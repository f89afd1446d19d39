"""Tables for narrow terminals: rows become blocks of lines if the columns do not fit."""

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

MAX_NAME_WIDTH = 14  # columns of a text that may be folded if space is short
BETWEEN = 3  # spaces between columns
EDGES = 2


def print_table(table: Table, console: Console) -> None:
    """Print the table, or its rows one below the other if the terminal is too narrow."""
    if needed_width(table) <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(_text(table.title))
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        first, *others = map(_text, cells)
        console.print(Text(" ".join(first.plain.splitlines()), style="bold"))
        for column, cell in zip(table.columns[1:], others, strict=True):
            header = " ".join(_text(column.header).plain.split())
            words = ", ".join(cell.plain.splitlines())
            console.print(Padding(Text(f"{header}: {words}" if header else words), (0, 0, 0, 2)))
    if table.caption:
        console.print(_text(table.caption))


def needed_width(table: Table) -> int:
    """The terminal width needed to show the table without cutting a number."""
    return sum(map(_needed, table.columns)) + BETWEEN * (len(table.columns) - 1) + EDGES


def _needed(column: Column) -> int:
    texts = [_text(cell).plain for cell in (column.header, *column.cells)]
    if column.no_wrap:
        return max(cell_len(line) for text in texts for line in text.splitlines() or [""])
    longest = max((cell_len(word) for text in texts for word in text.split()), default=0)
    return max(min(longest, MAX_NAME_WIDTH), column.min_width or 0)


def _text(content: object) -> Text:
    return content if isinstance(content, Text) else Text.from_markup(str(content))
