"""Prompt and completion: the prompt is read, the completion and the end-of-text token are trained on."""

import string
from collections.abc import Sequence
from dataclasses import dataclass

from tunewise.errors import DataError, SpecError, clause
from tunewise.lab.data.rows import Cells, EncodedRow, Row, Text, UnreadError, read_references, require_read
from tunewise.lab.data.tokens import Encoding, TextTokenizer, WordIds
from tunewise.spec import DataSpec


@dataclass(frozen=True)
class Part:
    """A part of a template: text, then the cell of a column if one is named."""

    literal: str
    column: str | None


def parse_template(template: str) -> tuple[Part, ...]:
    """Parts of a template such as 'Question: {question}'; '{{' is a brace. Raises SpecError."""
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SpecError(f"data.template {template!r}: {clause(error)}. For a literal brace write two: {{{{.") from error
    for _, column, form, conversion in fields:
        if column == "" or form or conversion:
            raise SpecError(f"data.template {template!r}: a placeholder is a column in braces, such as {{prompt}}.")
    return tuple(Part(literal, column) for literal, column, _, _ in fields)


class Pairs:
    """ids = [BOS] + tokens(template + separator) + tokens(completion) + [EOS]; completion and EOS are supervised.

    Prompt and completion are tokenized separately, so no token spans the boundary and the ids of the prompt are those
    that the model reads in use. (A tokenizer that adds a space before every text, as Llama's did, adds one before the
    completion, both in training and in use.) A long answer is truncated at its end, EOS first.
    """

    unit = "same prompt"
    nothing = "no completion"

    def __init__(self, data: DataSpec, tokenizer: TextTokenizer, max_length: int) -> None:
        self.data = data
        self.tokenizer = tokenizer
        self.end = tokenizer.end
        self.max_length = max_length
        self.template = parse_template(data.template)

    def render(self, cells: Cells) -> Text:
        """Template and separator as the prompt. Raises DataError for a missing column or text."""
        parts = [
            part.literal + (cells.text(part.column, "data.template") if part.column else "") for part in self.template
        ]
        prompt = "".join(parts)
        if not prompt.strip():
            raise DataError(f"{cells.place}: the prompt is empty. Fill it in, or drop the row.")
        if isinstance(cells.row.get("label"), bool) and not cells.columns:
            raise UnreadError(
                "label",
                f"{cells.place}: the column 'label', which says whether the completion is good, is not read "
                "(KTO's form), so every completion would be trained on. Drop the rows whose label is false, then the "
                "column.",
            )
        require_read(cells, "prompt and completion", {part.column for part in self.template})
        references = read_references(cells)
        has_answer = not references or cells.columns.get("completion", "completion") in cells.row
        answer = cells.filled("completion", "the task sft") if has_answer else references[0]
        return Text(prompt + self.data.separator, answer, references=references)

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """One example per row; without supervised tokens if the prompt leaves no room for an answer."""
        prompts = self.tokenizer.beginnings([row.text.prompt for row in rows], self.max_length)
        answers = self.tokenizer.beginnings([row.text.answer for row in rows], self.max_length)
        texts = [row.text.prompt + row.text.answer for row in rows]
        merges = self.tokenizer.merges(texts, [len(row.text.prompt) for row in rows])
        return [self._join(*item) for item in zip(rows, prompts, answers, merges, strict=True)]

    def read_prompt(self, prompt: str) -> list[int]:
        """The prompt in the template's one column; for a template with more columns, the prompt as rendered."""
        columns = {part.column for part in self.template if part.column}
        parts = [part.literal + (prompt if part.column else "") for part in self.template]
        rendered = "".join(parts) if len(columns) == 1 else prompt
        return self.tokenizer.begin(self.tokenizer.ids([rendered + self.data.separator])[0])

    def _join(self, row: Row, prompt: Encoding | WordIds, answer: Encoding | WordIds, merges: bool) -> EncodedRow:
        read = self.tokenizer.begin(prompt.ids)
        if not read or not answer.ids:
            raise DataError(
                f"{row.example}: the tokenizer makes no tokens from {row.text.prompt + row.text.answer!r:.80}."
            )
        # a completion that already ends with the token gets no second one
        learnt = answer.ids if answer.ids[-1] == self.end else [*answer.ids, self.end]
        room = max(0, self.max_length - len(read))
        kept = min(room, len(answer.ids))
        last = answer.end_of(kept - 1) if kept else 0
        return EncodedRow(
            example=row.example,
            unit=row.unit,
            input_ids=(read + learnt)[: self.max_length],
            supervised=([False] * len(read) + [True] * len(learnt))[: self.max_length],
            num_bytes=len(row.text.answer[:last].encode()),
            label=-1,
            prompt=row.text.prompt,
            reference=row.text.answer,
            cut_tokens=max(0, len(learnt) - room),
            merges=merges,
            references=row.text.references,
        )
