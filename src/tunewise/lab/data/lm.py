"""Plain text: documents cut into windows such that every token but a document's first is predicted exactly once."""

from collections.abc import Iterator, Sequence

from tunewise.lab.data.rows import Cells, EncodedRow, Row, Text
from tunewise.lab.data.tokens import Encoding, TextTokenizer

SAMPLE_PROMPT_TOKENS = 32  # enough to set the scene, short enough for a report


class Documents:
    """Windows of at most `max_length` tokens of [BOS] + document + [EOS], each where the tokenizer has one.

    A window begins with the last token of the window before it, which is read but not predicted again.
    """

    unit = "document"
    nothing = "no text"

    def __init__(self, tokenizer: TextTokenizer, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    def render(self, cells: Cells) -> Text | None:
        """The document; None where it is blank (usual in sets of paragraphs). Raises DataError if it is no text."""
        document = cells.text("text", "the task lm")
        return Text(document, "") if document.strip() else None

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """The windows of all documents; none of a document of a single token."""
        encodings = self.tokenizer.encode([row.text.prompt for row in rows])
        return [
            window for row, encoding in zip(rows, encodings, strict=True) for window in self._windows(row, encoding)
        ]

    def read_prompt(self, prompt: str) -> list[int]:
        """The beginning of a document."""
        return self.tokenizer.begin(self.tokenizer.ids([prompt])[0])

    def _windows(self, row: Row, encoding: Encoding) -> Iterator[EncodedRow]:
        text = row.text.prompt
        ids = self.tokenizer.begin(encoding.ids)
        before = len(ids) - len(encoding.ids)  # special tokens, which cover no text
        if (end := self.tokenizer.tokenizer.eos_token_id) is not None:
            ids = [*ids, end]
        # where in the text each token ends
        ends = [0] * before + [stop for _, stop in encoding.offsets] + [len(text)]
        for number, start in enumerate(range(0, len(ids) - 1, self.max_length - 1)):
            window = ids[start : start + self.max_length]
            middle = start + sample_length(len(window))
            opening = ends[start - 1] if start else 0
            first, split, last = (ends[position - 1] for position in (start + 1, middle, start + len(window)))
            yield EncodedRow(
                example=f"{row.example}#{number}",
                unit=row.unit,
                input_ids=window,
                supervised=[False] + [True] * (len(window) - 1),
                num_bytes=len(text[first:last].encode()),
                label=-1,
                prompt=text[opening:split],
                reference=text[split:last],
            )


def sample_length(num_tokens: int) -> int:
    """How many tokens of a window a model reads before it goes on by itself, in the samples of a report."""
    return min(SAMPLE_PROMPT_TOKENS, num_tokens // 2)
