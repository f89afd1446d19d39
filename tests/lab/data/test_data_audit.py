"""What would make the figures untrue is dropped, counted, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Prepared, make_row, make_study, write_rows

from tunewise.errors import DataError
from tunewise.lab.data.audit import count_near_duplicates, drop_duplicates, keep_fitting
from tunewise.lab.data.rows import EncodedRow, Row
from tunewise.spec import DataSpec, Split


def splits_with_leaks() -> dict[Split, list[Row]]:
    def rows(split: str, prompts: list[str]) -> list[Row]:
        return [make_row(prompt, "a", f"{split}:{i}") for i, prompt in enumerate(prompts, 1)]

    return {
        "train": rows("train", ["only here", "of  valid", "of\ntest ", "of test", "Of Test"]),
        "valid": rows("valid", ["of valid", "mine", "of test too"]),
        "test": rows("test", ["of test", "of test too", "of test too"]),
    }


def test_held_out_inputs_are_dropped_from_the_training_side_alone() -> None:
    separated = drop_duplicates(splits_with_leaks(), DataSpec(train="t"))
    assert [row.example for row in separated.rows["train"]] == ["train:1", "train:5"]
    assert [row.example for row in separated.rows["valid"]] == ["valid:1", "valid:2"]
    assert len(separated.rows["test"]) == 3
    assert separated.dropped == {"train": 3, "valid": 1, "test": 0}
    assert "3 of 5 rows of train" in separated.notes[0]
    assert "1 of 3 rows of valid" in separated.notes[1]


def test_kept_duplicates_are_said_and_refused_ones_shown() -> None:
    leaks = splits_with_leaks()
    kept = drop_duplicates(leaks, DataSpec(train="t", duplicates="keep"))
    assert kept.rows == leaks
    assert "3 of 5 rows of train" in kept.notes[0]
    assert "kept" in kept.notes[0]
    with pytest.raises(DataError, match=r"3 of 5 rows of train.*train:2.*data\.duplicates: drop"):
        drop_duplicates(leaks, DataSpec(train="t", duplicates="error"))


def test_a_repeated_test_input_is_one_unit(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    def write(name: str, prompts: list[str]) -> str:
        return write_rows(
            tmp_path / name, [{"prompt": prompt, "completion": f"c{i}"} for i, prompt in enumerate(prompts)]
        )

    study = make_study(
        {
            "train": write("train.jsonl", ["a", "a", "t 1", "v", "T, 1!"]),
            "valid": write("valid.jsonl", ["v", "t 1"]),
            "test": write("test.jsonl", ["t 1", "t  1", "t 2"]),
        }
    )
    prepared = prepare(study).summary
    train, valid, test = prepared.splits
    assert (train.rows, train.duplicates_dropped) == (3, 2)
    assert (valid.rows, valid.duplicates_dropped) == (1, 1)
    assert (test.rows, test.units, test.duplicates_dropped) == (3, 2, 0)
    assert prepared.near_duplicates == 2


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
