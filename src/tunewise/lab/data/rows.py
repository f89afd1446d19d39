"""A row on its way from the source to an example: as cells, as text, as tokens; and what turns one into the next."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunewise.errors import DataError
from tunewise.registry import near_miss

PIECE = 2**20  # characters


@dataclass(frozen=True, slots=True)
class Text:
    """One row as text."""

    prompt: str  # the whole input, as rendered (lm: the document)
    answer: str  # what is trained on (classify: the label's name; lm: nothing apart from the prompt)
    messages: tuple[dict[str, Any], ...] = ()  # chat: the conversation


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a split before it becomes tokens."""

    example: str  # 'train:17': row 17 of data.train
    unit: str  # rows of one unit are not independent
    key: str  # rows with one key have the same input, white space aside
    text: Text


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row of the prepared data (records.EXAMPLES_SCHEMA), and what was cut off it."""

    example: str
    unit: str
    input_ids: Sequence[int]
    supervised: Sequence[bool] | bytes
    num_bytes: int
    label: int
    prompt: str
    reference: str
    cut_tokens: int = 0
    merges: bool = False  # as one string, a token would lie across the boundary of prompt and answer


class Format(Protocol):
    """How the rows of one task become text, and the text tokens."""

    unit: str  # what rows with the same input are, for people: 'same prompt'
    nothing: str  # why a row is left out: 'no text'

    def render(self, cells: "Cells") -> Text | None:
        """The row as text; None: there is nothing to train on. Raises DataError."""
        ...

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """The rows as tokens, each at most the maximum length, in their order. Raises DataError."""
        ...

    def read_prompt(self, prompt: str) -> list[int]:
        """The tokens of a new prompt, as the model read prompts in training, up to where its answer begins."""
        ...


@dataclass(frozen=True)
class Cells:
    """One row of a source, its columns under our names."""

    row: Mapping[str, Any]
    place: str  # 'train.jsonl, line 17'
    columns: Mapping[str, str]  # our name -> the file's

    def value(self, column: str, needed_by: str) -> Any:
        """The cell as read. Raises DataError, which names `needed_by`, where the row has no such column."""
        name = self.columns.get(column, column)
        if name in self.row:
            return self.row[name]
        raise DataError(
            f"{self.place}: there is no column '{name}', which {needed_by} needs.{near_miss(name, self.row)} "
            f"Columns there: {', '.join(map(str, self.row)) or 'none'}. Map them with data.columns, for example "
            "columns: {prompt: question, completion: answer}."
        )

    def text(self, column: str, needed_by: str) -> str:
        """The cell as text, perhaps empty; numbers as Python writes them. Raises DataError for anything else."""
        value = self.value(column, needed_by)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
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
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
        raise DataError(
            f"{what} holds half a character (character {error.start + 1}). Drop or repair the row."
        ) from error
    return value


def input_key(text: str) -> str:
    """Equal for inputs that are equal but for white space: 16 hex digits of a SHA-256."""
    digest, before = hashlib.sha256(), ""  # what stands before the next word
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
