"""Columns as people have them: Alpaca's, several references, other names, and the line that a message says to write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from data_helpers import Prepared, make_study, write_rows

from tunewise.errors import DataError
from tunewise.lab.data.column_names import CALLED, columns_line, label_advice, nearest, roles_line
from tunewise.lab.data.examples import infer_task
from tunewise.lab.data.prepare import data_key
from tunewise.records import EXAMPLES_SCHEMA
from tunewise.spec import DataSpec

ALPACA = [{"instruction": f"do {i}", "input": f"this {i}" * (i % 2), "output": f"done {i}"} for i in range(40)]
PAIRS = [
    {"prompt": row["instruction"] + ("\n\n" + row["input"] if row["input"] else ""), "completion": row["output"]}
    for row in ALPACA
]


def test_alpacas_columns_are_pairs_with_the_input_behind_the_instruction(
    tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    alpaca = prepare(make_study({"train": write_rows(tmp_path / "a.jsonl", ALPACA)}))
    pairs = prepare(make_study({"train": write_rows(tmp_path / "p.jsonl", PAIRS)}))
    assert alpaca.tables == pairs.tables
    assert alpaca.summary.data == pairs.summary.data


def test_a_template_of_ones_own_reads_alpacas_columns_as_it_says(
    tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    rows = [{**row, "system": "Be kind."} for row in ALPACA]
    with pytest.raises(DataError, match=r"line 1: 'system' would be lost.*40 of 40 rows"):
        prepare(make_study({"train": write_rows(tmp_path / "a.jsonl", rows)}))
    found = prepare(make_study({"train": str(tmp_path / "a.jsonl"), "template": "{system} {prompt}"}))
    assert found.tables["train"][0]["prompt"].startswith("Be kind. do ")


def test_several_references_lie_beside_the_examples_and_only_where_they_are(
    tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    """The table has a further column for the split that has them; every other table and its hash are as before."""
    train = write_rows(tmp_path / "t.jsonl", PAIRS[:20])
    plain = [{"prompt": f"p {i}", "completion": f"first {i}"} for i in range(9)]
    several = [{"prompt": f"p {i}", "references": [f"first {i}", "second"]} for i in range(9)]
    one, more = (
        prepare(make_study({"train": train, "test": write_rows(tmp_path / f"{len(rows[0])}{name}.jsonl", rows)}))
        for name, rows in (("one", plain), ("more", several))
    )
    assert [*more.tables["test"][0]] == [*EXAMPLES_SCHEMA.names, "references"]
    assert [*more.tables["train"][0]] == EXAMPLES_SCHEMA.names
    assert more.tables["test"][3].pop("references") == ["first 3", "second"]
    assert more.tables["test"][3] == one.tables["test"][3], "trained on and scored by loss is the first"
    assert more.summary.data != one.summary.data
    assert any("9 of 9 rows of test" in note for note in more.summary.notes)


def test_a_setting_of_a_later_version_is_not_in_the_key_at_its_default(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "t.jsonl", PAIRS)
    plain, named = (make_study({"train": train, "roles": roles}) for roles in ({}, {"user": "U"}))
    assert data_key(plain, "t") == data_key(make_study({"train": train}), "t") != data_key(named, "t")


LINES = [
    ({"question": "q", "answer": "a"}, "columns: {prompt: question, completion: answer}"),
    (
        {"question": "q", "context": "c", "answer": "a"},
        'columns: {prompt: question, completion: answer} and template: "{context}\\n\\n{prompt}"',
    ),
    ({"mr": "q", "ref": "a"}, "columns: {prompt: mr, completion: ref}"),
    ({"utterance": "q", "intent": "a"}, "columns: {text: utterance, label: intent}"),
    ({"text": "q", "category": "a"}, "columns: {label: category}"),
    ({"Text": "q", "Label": "a"}, "columns: {text: Text, label: Label}"),
    ({"question": "q", "answers": ["a", "b"]}, "columns: {prompt: question, references: answers}"),
    ({"chat": [{"role": "user", "content": "a"}]}, "columns: {messages: chat}"),
    (
        {"turns": [{"speaker": "USER", "utterance": "a"}, {"speaker": "SYSTEM", "utterance": "b"}]},
        "columns: {messages: turns, role: speaker, content: utterance} and roles: {user: USER, assistant: SYSTEM}",
    ),
    ({"a": "q", "b": "a"}, ""),
]


@pytest.mark.parametrize(("row", "line"), LINES, ids=[line or "none" for _, line in LINES])
def test_the_line_to_write_makes_the_columns_ours(row: dict[str, Any], line: str) -> None:
    """It is what the message says, it is YAML, a study takes it, and with it the columns tell a task."""
    assert columns_line(row) == line
    if not line:
        return
    settings = yaml.safe_load(line.replace(" and ", "\n"))
    data = DataSpec.model_validate({"train": "t", **settings})
    infer_task(row, data.columns)


def test_no_name_of_others_is_one_of_ours() -> None:
    """Otherwise a column that is read already would be said to be another one."""
    assert not {name for names in CALLED.values() for name in names} & {*CALLED}


@pytest.mark.parametrize(
    ("columns", "near"),
    [
        (["conversation"], " Did you mean 'conversations'?"),
        (["completions"], " Did you mean 'completion'?"),
        (["lable"], " Did you mean 'label'?"),
        (["contents"], ""),
        (["label", "xyz"], ""),
        (["message"], " Did you mean 'messages'?"),
    ],
)
def test_a_near_miss_is_a_misspelling_and_not_another_word(columns: list[str], near: str) -> None:
    assert nearest(columns) == near


def test_a_model_that_classifies_alone_is_told_which_column_may_be_the_label() -> None:
    assert label_advice({"text": "a", "category": "b"}).endswith("Add under data: columns: {label: category}.")
    assert label_advice({"text": "a", "n": 1, "fine-label": 2}).endswith("columns: {label: fine-label}.")
    assert label_advice({"text": "a", "whatever": "b"}).endswith("columns: {label: whatever}.")
    assert label_advice({"text": "a"}) == " Columns found: text."


def test_plain_text_beside_a_class_is_said_to_be_plain_text(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    rows = [{"text": f"document {i}", "category": "ab"[i % 2]} for i in range(40)]
    train = write_rows(tmp_path / "t.jsonl", rows)
    assert any("'category' is not read" in note for note in prepare(make_study({"train": train})).summary.notes)
    assert not any("not read" in note for note in prepare(make_study({"train": train}, task="lm")).summary.notes)


@pytest.mark.parametrize(
    ("speakers", "line"),
    [
        (["A", "B"], "roles: {user: A, assistant: B}"),
        (["system", "Agent", "Customer"], "roles: {assistant: Agent, user: Customer}"),
        (["user", "B"], "roles: {assistant: B}"),
        (["user", "assistant"], "roles: {user: USER}"),
    ],
)
def test_who_speaks_is_guessed_by_name_then_by_order(speakers: list[str], line: str) -> None:
    assert roles_line(speakers) == line


def test_a_message_about_many_columns_is_short() -> None:
    columns = [f"c{number}" for number in range(40_000)]
    with pytest.raises(DataError, match="c19 and 39,980 more") as raised:
        infer_task(columns)
    assert len(str(raised.value)) < 1000
