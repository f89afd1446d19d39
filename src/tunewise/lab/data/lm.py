"""Plain text: documents split into windows; every token except a document's first is predicted exactly once."""

from collections.abc import Iterator, Sequence

from tunewise.lab.data.rows import Cells, EncodedRow, Row, Text
from tunewise.lab.data.tokens import Encoding, TextTokenizer

SAMPLE_PROMPT_TOKENS = 32  # enough context for an answer, short enough for a report


class Documents:
    """Windows of at most `max_length` tokens of [BOS] + document + [EOS], if the tokenizer has these.

    A window begins with the last token of the previous one, which is read but not predicted again.
    """

    unit = "document"
    nothing = "no text"

    def __init__(self, tokenizer: TextTokenizer, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    def render(self, cells: Cells) -> Text | None:
        """The document; None if it is blank (common in data sets of paragraphs). Raises DataError if it is not text."""
        document = cells.text("text", "the task lm")
        return Text(document, "") if document.strip() else None

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """Windows of all documents; none for a document of a single token."""
        encodings = self.tokenizer.encode([row.text.prompt for row in rows])
        return [
            window for row, encoding in zip(rows, encodings, strict=True) for window in self._windows(row, encoding)
        ]

    def read_prompt(self, prompt: str) -> list[int]:
        """Beginning of a document."""
        return self.tokenizer.begin(self.tokenizer.ids([prompt])[0])

    def _windows(self, row: Row, encoding: Encoding) -> Iterator[EncodedRow]:
        text = row.text.prompt
        ids = self.tokenizer.begin(encoding.ids)
        before = len(ids) - len(encoding.ids)  # special tokens, which cover no text
        if (end := self.tokenizer.tokenizer.eos_token_id) is not None:
            ids = [*ids, end]
        # end of each token in the text
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
    """Number of tokens of a window that a model reads before it continues, in the samples of a report."""
    return min(SAMPLE_PROMPT_TOKENS, num_tokens // 2)
