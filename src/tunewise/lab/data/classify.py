"""Text and label: the whole text is read, and a head predicts the label."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tunewise.errors import DataError
from tunewise.lab.data.rows import Cells, EncodedRow, Row, Text, checked_text
from tunewise.lab.data.tokens import TextTokenizer
from tunewise.spec import Split


class Labelled:
    """ids = the tokenizer's own frame ([CLS] ... [SEP], BOS ..., or nothing) around the text, which is truncated."""

    unit = "same text"
    nothing = "no text"

    def __init__(self, tokenizer: TextTokenizer, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    def render(self, cells: Cells) -> Text:
        """The text and the name of its label. Raises DataError."""
        return Text(cells.filled("text", "the task classify"), label_name(cells))

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """One example per row, label -1 until `number_labels`."""
        texts = self.tokenizer.beginnings([row.text.prompt for row in rows], self.max_length)
        return [self._example(row, text.ids) for row, text in zip(rows, texts, strict=True)]

    def read_prompt(self, prompt: str) -> list[int]:
        """The text in its frame."""
        return self._framed(self.tokenizer.ids([prompt])[0])

    def _framed(self, ids: list[int]) -> list[int]:
        prefix, suffix = self.tokenizer.prefix, self.tokenizer.suffix
        return prefix + ids[: self.max_length - len(prefix) - len(suffix)] + suffix

    def _example(self, row: Row, text_ids: list[int]) -> EncodedRow:
        if not text_ids:
            raise DataError(f"{row.example}: the tokenizer makes no tokens from {row.text.prompt!r:.80}.")
        ids = self._framed(text_ids)
        return EncodedRow(
            example=row.example,
            unit=row.unit,
            input_ids=ids,
            supervised=[False] * len(ids),
            num_bytes=0,
            label=-1,
            prompt=row.text.prompt,
            reference=row.text.answer,
            cut_tokens=len(text_ids) + len(self.tokenizer.prefix) + len(self.tokenizer.suffix) - len(ids),
        )


def label_name(cells: Cells) -> str:
    """Name of a row's class: a text without outer blanks, a whole number, 'true' or 'false'. Raises DataError.

    A label means the same however the file writes it: 1 in JSON is '1' in CSV. Fractions are refused: they are
    quantities, and predicting them is not classification.
    """
    value = cells.value("label", "the task classify")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.strip():
        return checked_text(value.strip(), f"{cells.place}: the label")
    raise DataError(
        f"{cells.place}: the label must be a text or a whole number, but is {value!r}. "
        "Write 1, not 1.0; drop rows without a label."
    )


def number_labels(examples: Mapping[Split, list[EncodedRow]]) -> tuple[tuple[str, ...], dict[Split, list[EncodedRow]]]:
    """Class names of train in order (whole numbers by value, else alphabetically), and the examples numbered by them.

    Raises DataError if train has a single class, or another split has a class that train lacks.
    """
    names = _in_order({example.reference for example in examples["train"]})
    if len(names) < 2:
        raise DataError(
            f"train has a single class, '{names[0]}', so there is nothing to classify. "
            "Check data.columns and data.limit.train."
        )
    numbers = {name: number for number, name in enumerate(names)}
    for split, members in examples.items():
        unseen = [example for example in members if example.reference not in numbers]
        if unseen:
            raise DataError(
                f"{unseen[0].example}: the label '{unseen[0].reference}' does not occur in train. This concerns "
                f"{len(unseen):,} of {len(members):,} {split} rows. Classes in train: {', '.join(names)[:200]}. "
                "Correct the label, drop the rows, or raise data.limit.train."
            )
    numbered = {
        split: [replace(example, label=numbers[example.reference]) for example in members]
        for split, members in examples.items()
    }
    return names, numbered


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    names = list(names)
    if all(re.fullmatch(r"[+-]?\d{1,999}", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
