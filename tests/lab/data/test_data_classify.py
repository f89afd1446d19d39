"""Text and label: the tokenizer's own frame, labels in a fixed order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Prepared, make_row, make_study, write_rows

from tunewise.lab.data.classify import Labelled
from tunewise.lab.data.examples import prompt_ids
from tunewise.lab.data.tokens import TextTokenizer


@pytest.mark.parametrize("name", ["encoder", "tiny", "stories"])
@pytest.mark.parametrize("max_length", [8, 9, 64])
def test_a_text_is_cut_inside_the_frame_of_its_tokenizer(
    request: pytest.FixtureRequest, name: str, max_length: int
) -> None:
    tokenizer = request.getfixturevalue(name)
    for text in ("a good film", "a bad bad film " * 10):
        encoded = Labelled(TextTokenizer.of(tokenizer), max_length).encode([make_row(text, "good")])[0]
        assert encoded.input_ids == tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
        assert encoded.cut_tokens == len(tokenizer(text)["input_ids"]) - len(encoded.input_ids)
        assert not any(encoded.supervised)


def write(path: Path, labels: list[Any]) -> str:
    return write_rows(path, [{"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(60)])


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["spam", "ham"], ("ham", "spam")),
        ([10, 9, -1], ("-1", "9", "10")),
        (["10", "9"], ("9", "10")),
        ([True, False], ("false", "true")),
        ([" b", "a "], ("a", "b")),
        ([2, "x"], ("2", "x")),
    ],
)
def test_classes_are_numbered_in_the_order_of_their_names(
    labels: list[Any], names: tuple[str, ...], tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    prepared = prepare(make_study({"train": write(tmp_path / "t.jsonl", labels)}))
    assert prepared.summary.labels == names
    for table in prepared.tables.values():
        assert all(names[row["label"]] == row["reference"] for row in table)


def test_a_label_is_the_same_class_in_json_and_in_csv(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    train = write(tmp_path / "train.jsonl", [1, 0])
    test = tmp_path / "test.csv"
    test.write_text("text,label\nnew,1\nnewer,0\n")
    prepared = prepare(make_study({"train": train, "test": str(test)}))
    assert [row["label"] for row in prepared.tables["test"]] == [1, 0]


def test_long_texts_are_cut_and_counted(tmp_path: Path, prepare: Callable[..., Prepared], encoder: Any) -> None:
    rows = [{"text": f"a film {i}", "label": i % 2} for i in range(60)] + [{"text": "bad " * 30, "label": 0}]
    study = make_study({"train": write_rows(tmp_path / "t.jsonl", rows), "max_length": 20, "max_truncated": 1})
    splits = prepare(study, encoder).summary.splits
    assert sum(split.truncated_rows for split in splits) == 1
    assert sum(split.truncated_tokens for split in splits) == 32 - 20
    assert sum(split.supervised_tokens for split in splits) == 61


def test_a_new_text_is_framed_as_in_training(tmp_path: Path, encoder: Any) -> None:
    study = make_study({"train": write(tmp_path / "t.jsonl", ["a", "b"])})
    assert prompt_ids(study, "classify", encoder, "a good film") == encoder("a good film")["input_ids"]
