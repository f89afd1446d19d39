"""Checks for data that would distort results: test inputs in train, truncated answers, empty splits."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewise.errors import DataError
from tunewise.lab.data.rows import PIECE, EncodedRow, Row, runs
from tunewise.lab.data.sources.row_index import Indexed, Numbers, RowIndex
from tunewise.records import DataLaw, LawCount, SplitSummary
from tunewise.spec import TASKS, DataSpec, Split, Task

SHOWN_IDS = 3  # enough to open the file and see the pattern

# Splits that may not contain an input of which others: the training side always loses its rows.
GUARDED: tuple[tuple[Split, tuple[Split, ...]], ...] = (("train", ("valid", "test")), ("valid", ("test",)))


@dataclass(frozen=True)
class Separated:
    """The rows that remain, and those whose input another split also contains."""

    rows: dict[Split, RowIndex]
    dropped: dict[Split, int]
    same: dict[Split, RowIndex]  # dropped or kept, according to `data.duplicates`


def drop_duplicates(indexed: Indexed, data: DataSpec) -> Separated:
    """Rows without those of `train` that occur in `valid` or `test`, and those of `valid` that occur in `test`.

    Rows are the same if their rendered inputs are, ignoring white space. `data.duplicates` decides: drop, error or
    keep. Raises DataError for `error`, and if nothing is left.
    """
    rows = indexed.rows
    kept = dict(rows)
    dropped: dict[Split, int] = dict.fromkeys(rows, 0)
    found: dict[Split, RowIndex] = {}
    for split, others in GUARDED:
        is_same = _among(rows[split].keys, np.concatenate([rows[other].keys for other in others]))
        found[split] = same = rows[split].take(is_same)
        if not len(same):
            continue
        held = " or ".join(others)
        finding = f"{len(same):,} of {len(rows[split]):,} rows of {split} have an input that {held} also contains"
        if data.duplicates == "error":
            prompt = indexed.fetch({split: same.take([0])})[split][0].text.prompt
            raise DataError(
                f"{finding}: {', '.join(first(same.ids()))}; the first is {prompt.strip()[:80]!r}. "
                "Remove them, or set data.duplicates: drop."
            )
        if data.duplicates == "keep":
            continue
        kept[split] = rows[split].take(~is_same)
        dropped[split] = len(same)
        if not len(kept[split]):
            raise DataError(f"{finding}, so {split} would be empty. Give {split} rows of its own.")
    return Separated(kept, dropped, found)


def _among(keys: Numbers, held_out: Numbers) -> NDArray[np.bool_]:
    """Mask of keys that are held out. `np.isin` would take nearly three times the memory."""
    held_out = np.sort(held_out)
    places = np.searchsorted(held_out, keys)
    places[places == len(held_out)] = 0
    return np.equal(held_out[places], keys)


def count_exact_duplicates(test: Sequence[Row], train: Sequence[Row]) -> int:
    """Number of test rows whose input also occurs in train, ignoring white space; 0 unless duplicates were kept."""
    keys = {row.key for row in train}
    return sum(row.key in keys for row in test)


def count_near_duplicates(test: Sequence[Row], train: Sequence[Row]) -> int:
    """Number of test rows whose input has the same set of words as one of train without being the same input.

    Case, order, repetition and punctuation do not count. Inputs without words are left out.
    """
    keys = {row.key for row in train}
    words = {_words(row) for row in train} - {""}
    return sum(row.key not in keys and _words(row) in words for row in test)


def _words(row: Row) -> str:
    text = row.text.prompt.lower()
    # one by one: a list of them all would take ten times the memory of the text
    found = re.findall(r"\w+", text) if len(text) < PIECE else (word[0] for word in re.finditer(r"\w+", text))
    words = sorted(set(found))
    return hashlib.sha256(" ".join(words).encode()).hexdigest() if words else ""


@dataclass(frozen=True)
class Fitted:
    """Examples with something to train on, and counts of those that exceed the maximum length."""

    examples: list[EncodedRow]
    rows: int  # truncated or dropped
    tokens: int


def keep_fitting(split: Split, examples: Sequence[EncodedRow], task: Task, data: DataSpec, max_length: int) -> Fitted:
    """The examples that still have something to train on; the others are dropped and counted as truncated.

    Raises DataError if more than the share `data.max_truncated` was truncated or dropped, or nothing is left.
    """
    cut = [example for example in examples if example.cut_tokens]
    kept = [example for example in examples if TASKS[task].has_classes or any(example.supervised)]
    if len(cut) > data.max_truncated * len(examples):
        raise DataError(_too_many(split, cut, len(examples), len(examples) - len(kept), data, max_length))
    if not kept:
        raise DataError(f"{split}: no row contains anything to train on. Give longer texts.")
    return Fitted(kept, len(cut), sum(example.cut_tokens for example in cut))


def _too_many(
    split: Split, cut: Sequence[EncodedRow], num_rows: int, dropped: int, data: DataSpec, max_length: int
) -> str:
    lost = f", and the prompt alone fills {dropped:,} of them" if dropped else ""
    share = f"{len(cut) / num_rows:.1%}"
    ids = first(example.example for example in cut)
    bound = "the model's context" if max_length < data.max_length else "data.max_length"
    return (
        f"{split}: {len(cut):,} of {num_rows:,} rows ({share}) are longer than {max_length:,} tokens ({bound}){lost}; "
        f"the first are {', '.join(ids)}. At most {data.max_truncated:.1%} may be truncated (data.max_truncated). "
        "Shorten or drop these rows, raise data.max_length (up to the model's context), or raise data.max_truncated."
    )


def summarize(split: Split, source: str, rows_read: int, dropped: int, fitted: Fitted, task: Task) -> SplitSummary:
    """Counts of one split. For `classify` each row's label counts as its one supervised token.

    `rows_read` counts rows or documents with something to train on; `rows` counts the windows of documents.
    """
    examples = fitted.examples
    sizes: Counter[str] = Counter()
    for example in examples:
        sizes[example.unit] += 1 if TASKS[task].has_classes else sum(example.supervised)
    return SplitSummary(
        split=split,
        source=source,
        rows_read=rows_read,
        rows=len(examples),
        units=len(sizes),
        effective_units=sizes.total() ** 2 / sum(size**2 for size in sizes.values()),
        tokens=sum(len(example.input_ids) for example in examples),
        supervised_tokens=sizes.total(),
        truncated_rows=fitted.rows,
        truncated_tokens=fitted.tokens,
        duplicates_dropped=dropped,
    )


def endless(examples: Sequence[EncodedRow], ends: Collection[int]) -> list[EncodedRow]:
    """Examples with a complete answer (sft) that does not end with a token at which a model stops."""
    whole = (example for example in examples if not example.cut_tokens and any(example.supervised))
    return [example for example in whole if example.input_ids[list(runs(example.supervised))[-1][1] - 1] not in ends]


def count_laws(
    split: Split,
    examples: Sequence[EncodedRow],
    same: RowIndex | None,
    rows_read: int,
    task: Task,
    ends: Collection[int],
) -> tuple[LawCount, ...]:
    """Counts of every law that applies to `task` in a split, zeros included.

    `examples` are those before any is dropped, `same` the rows with an input of another split, out of `rows_read`;
    None: nothing is held out from this split.
    """
    found: dict[DataLaw, list[EncodedRow]] = {"truncation": [example for example in examples if example.cut_tokens]}
    if not TASKS[task].has_classes:
        found["supervised"] = [example for example in examples if not any(example.supervised)]
    if task == "sft":
        found["end-of-text"] = endless(examples, ends)
        found["boundary"] = [example for example in examples if example.merges]
    counts = [
        LawCount(
            law=law, split=split, count=len(members), of=len(examples), examples=first(row.example for row in members)
        )
        for law, members in found.items()
    ]
    if same is not None:
        counts.append(
            LawCount(law="duplicates", split=split, count=len(same), of=rows_read, examples=first(same.ids()))
        )
    return tuple(counts)


def first(ids: Iterable[str]) -> tuple[str, ...]:
    """The first three items."""
    return tuple(itertools.islice(ids, SHOWN_IDS))
