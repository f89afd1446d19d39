"""Alpaca's columns: an instruction, perhaps an input that it is about, and the output."""

from collections.abc import Collection, Sequence
from typing import Any

from tunewise.lab.data.column_names import ALPACA
from tunewise.lab.data.rows import Cells, EncodedRow, Row, Text, UnreadError
from tunewise.lab.data.sft import Pairs
from tunewise.spec import DataSpec

# LLaMA-Factory's further columns of this form, which say what came before the instruction.
BEFORE = ("system", "history")


def is_alpaca(columns: Collection[str], data: DataSpec) -> bool:
    """Whether rows with these columns are Alpaca's, and the study does not say otherwise."""
    named = {"prompt", "completion"} & {*columns, *data.columns}
    return not named and {*columns} >= ALPACA


class Alpaca:
    """Pairs whose prompt is the instruction, an empty line and the input where there is one; the output is learnt."""

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
                    f"{cells.place}: '{name}' would be lost: of Alpaca's form instruction, input and output are read. "
                    f'Read it with data.template, for example template: "{{{name}}}\\n\\n{{prompt}}", or remove it.',
                )
        instruction = cells.filled("instruction", "Alpaca's form")
        given = cells.text("input", "Alpaca's form") if cells.row.get("input") is not None else ""
        prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
        pair: dict[str, Any] = {**cells.row, "prompt": prompt, "completion": cells.filled("output", "Alpaca's form")}
        return self.pairs.render(Cells(pair, cells.place, cells.columns))

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """As `Pairs` do."""
        return self.pairs.encode(rows)

    def read_prompt(self, prompt: str) -> list[int]:
        """As `Pairs` do; an input belongs behind the instruction, after an empty line."""
        return self.pairs.read_prompt(prompt)
