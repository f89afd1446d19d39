"""A row on its way from the source to an example: as cells, as text, as tokens, and the steps between."""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunewise.errors import DataError
from tunewise.lab.data.column_names import CALLED, SETS, advice
from tunewise.text.suggest import listed, near_miss

PIECE = 2**20  # characters


@dataclass(frozen=True, slots=True)
class Text:
    """One row as text."""

    prompt: str  # the whole input, as rendered (lm: the document)
    answer: str  # the text trained on (classify: the label's name; lm: empty, because the prompt is trained on)
    messages: tuple[dict[str, Any], ...] = ()  # chat: the conversation
    tools: tuple[dict[str, Any], ...] = ()  # chat: tools that the assistant could call
    untrained: frozenset[int] = frozenset()  # chat: turns of the assistant that are only read
    references: tuple[str, ...] = ()  # equally good answers; empty: `answer` alone
    drops_reasoning: bool = False  # chat: the template leaves out reasoning of turns that are only read


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a split before it is tokenized."""

    example: str  # 'train:17': row 17 of data.train
    unit: str  # rows of one unit are not independent
    key: str  # rows with the same key have the same input, ignoring white space
    text: Text


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row of the prepared data (records.EXAMPLES_SCHEMA), and what was truncated."""

    example: str
    unit: str
    input_ids: Sequence[int]
    supervised: Sequence[bool] | bytes
    num_bytes: int
    label: int
    prompt: str
    reference: str
    cut_tokens: int = 0
    merges: bool = False  # as one string, a token would span the boundary of prompt and answer
    references: tuple[str, ...] = ()  # references for metrics of written text; empty: `reference` alone


class UnreadError(DataError):
    """A row has a field that would change its meaning, but nothing reads it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Format(Protocol):
    """Conversion of the rows of one task to text, and of text to tokens."""

    unit: str  # what rows with the same input share, in words: 'same prompt'
    nothing: str  # reason for leaving a row out: 'no text'

    def render(self, cells: "Cells") -> Text | None:
        """The row as text; None if there is nothing to train on. Raises DataError."""
        ...

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """The rows as tokens, each at most the maximum length, in their order. Raises DataError."""
        ...

    def read_prompt(self, prompt: str) -> list[int]:
        """Tokens of a new prompt, as in training, up to where its answer begins."""
        ...


@dataclass(frozen=True)
class Cells:
    """One row of a source, its columns under our names."""

    row: Mapping[str, Any]
    place: str  # 'train.jsonl, line 17'
    columns: Mapping[str, str]  # our name -> the file's

    def value(self, column: str, needed_by: str) -> Any:
        """The cell as read. Raises DataError, which names `needed_by`, if the row has no such column."""
        name = self.columns.get(column, column)
        if name in self.row:
            return self.row[name]
        raise DataError(
            f"{self.place}: column '{name}' is missing, which {needed_by} needs.{near_miss(name, self.row)} "
            f"Columns found: {listed(self.row) or 'none'}. {advice(self.row, _sets_with(column))}"
        )

    def text(self, column: str, needed_by: str) -> str:
        """The cell as text, possibly empty; numbers as Python writes them. Raises DataError for anything else."""
        value = self.value(column, needed_by)
        is_whole = isinstance(value, int) and not isinstance(value, bool)  # of any length: no float may hold it
        if is_whole or (isinstance(value, float) and math.isfinite(value)):
            return str(value)
        return checked_text(value, f"{self.place}: '{self.columns.get(column, column)}'")

    def filled(self, column: str, needed_by: str) -> str:
        """The cell as text that is not blank. Raises DataError."""
        text = self.text(column, needed_by)
        if not text.strip():
            raise DataError(
                f"{self.place}: '{self.columns.get(column, column)}' is empty. Fill it in, or drop the row."
            )
        return text


def _sets_with(column: str) -> list[tuple[str, ...]]:
    return [*(names for names in SETS if column in names), *([(column,)] if column in CALLED else [])]


def read_references(cells: Cells) -> tuple[str, ...]:
    """Answers in the column `references`, a list of texts; () if the row has none. Raises DataError."""
    name = cells.columns.get("references", "references")
    value = cells.row.get(name)
    if value is None:
        return ()
    what = f"{cells.place}: '{name}'"
    if not isinstance(value, list) or not value:
        raise DataError(f'{what} must be a list of texts, such as ["one answer", "another"], but is {value!r:.80}.')
    texts = tuple(checked_text(text, f"{what}, text {number}") for number, text in enumerate(value, start=1))
    if blank := [number for number, text in enumerate(texts, start=1) if not text.strip()]:
        raise DataError(f"{what}, text {blank[0]} is empty. Fill it in, or remove it.")
    return texts


# Columns that add meaning to a row's text, which would be lost if only the text were trained on.
UNREAD = (
    *("tools", "functions", "documents", "chat_template_kwargs", "chosen", "rejected", "kto_tag", "history"),
    *("image", "images", "video", "videos", "audio", "audios"),
)
ANY_UNREAD = frozenset(UNREAD)


def require_read(cells: Cells, form: str, read: Collection[str | None]) -> None:
    """Raise UnreadError if a row of this form has a filled column that would change its meaning and is not `read`."""
    if ANY_UNREAD.isdisjoint(cells.row):  # nearly all rows
        return
    for name in UNREAD:
        value = cells.row.get(name)
        is_mapped = name in cells.columns.values()
        if not value or name in read or is_mapped or (name == "history" and not isinstance(value, list)):
            continue
        raise UnreadError(
            name,
            f"{cells.place}: the column '{name}' of a row with {form} is not read, so its content would be lost. "
            "Write it into the texts, or remove the column.",
        )


def checked_text(value: Any, what: str) -> str:
    """`value` if it is text that can be stored. Raises DataError, beginning with `what`, otherwise."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{what} is null. Fill it in, or drop the row.")
    if not isinstance(value, str):
        shown = str(value)[:60]
        raise DataError(
            f"{what} must be text, but is of type {type(value).__name__}: {shown}. Write it as text, or drop the row."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:  # a lone surrogate, which JSON can write but UTF-8 cannot
        raise DataError(
            f"{what} contains a lone surrogate at character {error.start + 1}. Drop or repair the row."
        ) from error
    return value


def input_key(text: str) -> str:
    """Key that ignores white space: 16 hex digits of a SHA-256."""
    digest, before = hashlib.sha256(), ""  # separator before the next word
    for start in range(0, len(text), PIECE):  # a list of all words of a long text takes ten times its memory
        piece = text[start : start + PIECE]
        if words := " ".join(piece.split()):
            space = before if piece[0].isspace() or (start and text[start - 1].isspace()) else ""
            digest.update((space + words).encode())
            before = " "
    return digest.hexdigest()[:16]


def runs(marks: Sequence[bool] | bytes) -> Iterator[tuple[int, int]]:
    """(start, stop) of each longest stretch of True."""
    found = bytes(marks)
    start = found.find(1)
    while start >= 0:
        stop = found.find(0, start)
        stop = len(found) if stop < 0 else stop
        yield start, stop
        start = found.find(1, stop)
