"""Alpaca's columns: an instruction, an optional input, and the output."""

from collections.abc import Collection, Sequence
from typing import Any

from tunewise.lab.data.column_names import ALPACA
from tunewise.lab.data.rows import Cells, EncodedRow, Row, Text, UnreadError
from tunewise.lab.data.sft import Pairs
from tunewise.spec import DataSpec

# LLaMA-Factory's additional columns of this form: earlier context of the instruction.
BEFORE = ("system", "history")


def is_alpaca(columns: Collection[str], data: DataSpec) -> bool:
    """True if rows with these columns are Alpaca's, and the study does not say otherwise."""
    named = {"prompt", "completion"} & {*columns, *data.columns}
    return not named and {*columns} >= ALPACA


class Alpaca:
    """Pairs whose prompt is the instruction, an empty line and the input if there is one; the output is trained on."""

    nothing = Pairs.nothing
    unit = Pairs.unit

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def render(self, cells: Cells) -> Text:
        """The row as a pair. Raises DataError."""
        read = {part.column for part in self.pairs.template}
        for name in BEFORE:
            if cells.row.get(name) and name not in read:
                raise UnreadError(
                    name,
                    f"{cells.place}: '{name}' would be lost: in Alpaca's form only instruction, input "
                    "and output are read. "
                    f'Read it with data.template, for example template: "{{{name}}}\\n\\n{{prompt}}", or remove it.',
                )
        instruction = cells.filled("instruction", "Alpaca's form")
        given = cells.text("input", "Alpaca's form") if cells.row.get("input") is not None else ""
        prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
        pair: dict[str, Any] = {**cells.row, "prompt": prompt, "completion": cells.filled("output", "Alpaca's form")}
        return self.pairs.render(Cells(pair, cells.place, cells.columns))

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """Encode rows as `Pairs` does."""
        return self.pairs.encode(rows)

    def read_prompt(self, prompt: str) -> list[int]:
        """Read a prompt as `Pairs` does; an input goes after the instruction and an empty line."""
        return self.pairs.read_prompt(prompt)
