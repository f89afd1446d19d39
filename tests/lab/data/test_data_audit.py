"""What would make the figures untrue is dropped, counted, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Prepared, make_row, make_study, write_rows

from tunewise.errors import DataError
from tunewise.lab.data.audit import count_near_duplicates, keep_fitting
from tunewise.lab.data.rows import EncodedRow
from tunewise.spec import DataSpec


def test_near_duplicates_share_their_words() -> None:
    train = [make_row(text) for text in ("The cat, the dog!", "?!", "exactly me", "x y z")]
    near = ("dog the cat", "THE DOG CAT")
    other = ("the cat", "!?", "exactly  me", "x y zz")
    assert count_near_duplicates([make_row(text) for text in near], train) == 2
    assert count_near_duplicates([make_row(text) for text in other], train) == 0


def encoded(cut_tokens: int, supervised: int) -> EncodedRow:
    return EncodedRow(
        "train:1", "u", [1] * 9, [False] * (9 - supervised) + [True] * supervised, 1, -1, "p", "r", cut_tokens
    )


def test_as_many_rows_may_be_cut_as_declared_and_no_more() -> None:
    examples = [encoded(0, 3)] * 18 + [encoded(2, 3), encoded(5, 0)]
    fitted = keep_fitting("train", examples, "sft", DataSpec(train="t", max_truncated=0.1), 9)
    assert (len(fitted.examples), fitted.rows, fitted.tokens) == (19, 2, 7)
    with pytest.raises(DataError, match=r"2 of 20 rows \(10\.0%\).*9 tokens"):
        keep_fitting("train", examples, "sft", DataSpec(train="t", max_truncated=0.09), 9)


def test_duplicates_are_dropped_before_the_limit_is_drawn(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    def write(name: str, numbers: range) -> str:
        rows: list[dict[str, Any]] = [{"prompt": f"p {i}", "completion": "c"} for i in numbers]
        return write_rows(tmp_path / name, rows)

    files = {
        "train": write("train.jsonl", range(100)),
        "valid": write("valid.jsonl", range(200, 210)),
        "test": write("test.jsonl", range(80)),
    }
    prepared = prepare(make_study({**files, "limit": {"train": 20, "test": 5}}))
    assert prepared.summary.splits[0].rows == 20, "the 20 rows that are not in test"
    assert {int(row["prompt"].split()[1]) for row in prepared.tables["train"]} == set(range(80, 100))
    assert prepared.summary.splits[2].rows == 5
