"""General text on which forgetting is measured, as windows of many documents."""

import itertools
from collections.abc import Iterator

from tunewise.errors import DataError
from tunewise.lab.data.lm import Documents
from tunewise.lab.data.rows import EncodedRow, Row, input_key
from tunewise.lab.data.sources.sources import read_source
from tunewise.lab.data.splits import position
from tunewise.lab.data.tokens import TextTokenizer
from tunewise.spec import StudySpec

# Shorter than most contexts: the same number of tokens then comes from more documents, which are the independent units,
# and the interval is narrower.
WINDOW_TOKENS = 256


def general_examples(study: StudySpec, tokenizer: TextTokenizer, max_length: int) -> list[EncodedRow]:
    """Windows with at most `forgetting.tokens` supervised tokens in all, at least one window.

    The first windows of all documents come first, in the order of the documents' hashes, then the second ones, and so
    on. The unit is the document; a repeated text counts once. Raises DataError if there is nothing to predict.
    """
    forgetting = study.forgetting
    table = read_source(forgetting.text, "train", study.data.document_separator)
    documents = Documents(tokenizer, min(WINDOW_TOKENS, max_length, forgetting.tokens + 1))
    rows: dict[str, Row] = {}
    for number, cells in enumerate(table.cells({}), start=1):
        text = documents.render(cells)
        if text is not None:
            key = input_key(text.prompt)
            rows.setdefault(key, Row(f"general:{number}", key, key, text))
    in_order = sorted(rows.values(), key=lambda row: position(row.key))
    windows = list(_up_to(forgetting.tokens, [documents.encode([row]) for row in in_order]))
    if not windows:
        raise DataError(
            f"{forgetting.text}: contains no text to measure forgetting. Give another file, or "
            "set forgetting.tokens: 0."
        )
    return windows


def _up_to(tokens: int, by_document: list[list[EncodedRow]]) -> Iterator[EncodedRow]:
    total = 0
    for window in itertools.chain.from_iterable(itertools.zip_longest(*by_document)):
        if window is None:
            continue
        total += sum(window.supervised)
        if total > tokens:
            return
        yield window
