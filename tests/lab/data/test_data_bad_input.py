"""Data that cannot be used ends in one message: where, what is wrong, what to do."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Prepared, make_study, write_rows

from tunewise.errors import SpecError, UserError

GOOD_PAIRS = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(60)]
GOOD_LABELS = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(60)]
PAIR = b'{"prompt": "p", "completion": "c"}\n'


def lines(*rows: Any) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


# name of the case -> (file name, its bytes, words of the message, in this order)
BROKEN_FILES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "empty file": ("t.jsonl", b"", ("t.jsonl", "is empty")),
    "only blanks": ("t.csv", b" \n\n", ("t.csv", "is empty")),
    "broken line": ("t.jsonl", PAIR * 2 + b'{"prompt": "p", "compl', ("t.jsonl, line 3", "broken JSON")),
    "line that is no object": ("t.jsonl", PAIR + b'["p", "c"]', ("t.jsonl, line 2", "must be an object", "an array")),
    "number without end": ("t.jsonl", b'{"a": ' + b"9" * 5000 + b"}", ("t.jsonl, line 1", "broken JSON")),
    "nested without end": ("t.jsonl", b"[" * 100_000, ("t.jsonl, line 1", "broken JSON")),
    "object instead of array": ("t.json", b'{"data": []}', ("t.json", "array of objects", "an object")),
    "empty array": ("t.json", b"[]", ("t.json", "no rows")),
    "row that is no object": ("t.json", b'[{"text": "a"}, 3]', ("t.json, row 2", "a number")),
    "broken array": ("t.json", b'[{"text": "a"},\n', ("t.json, line 2", "broken JSON")),
    "lines named json": ("t.json", PAIR * 2, ("t.json, line 2", "Extra data", ".jsonl")),
    "header alone": ("t.csv", b"text,label\n", ("t.csv", "no rows")),
    "row with too many cells": ("t.csv", b"text,label\na,b\na,b,c\n", ("t.csv, line 3", "3 cells", "2", "quotes")),
    "row with too few cells": ("t.csv", b"text,label\na\n", ("t.csv, line 2", "1 cells", "2")),
    "open quote": ("t.csv", b'text,label\n"a,b\n', ("t.csv, line 2", "broken CSV")),
    "column named twice": ("t.csv", b"text,text\na,b\n", ("t.csv, line 1", "'text' twice")),
    "NUL bytes": ("t.jsonl", PAIR + b"\x00\x01\x02", ("t.jsonl, line 2", "NUL", "UTF-8")),
    "latin-1": ("t.txt", "caf\xe9".encode("latin-1"), ("t.txt, line 1", "0xe9", "UTF-8")),
    "no parquet": ("t.parquet", b"PAR1 junk", ("t.parquet", "not a whole Parquet")),
    "no gzip": ("t.jsonl.gz", PAIR, ("t.jsonl.gz", "gzip")),
    "half a gzip": ("t.jsonl.gz", gzip.compress(PAIR * 99)[:40], ("t.jsonl.gz", "gzip")),
    "unknown kind": ("t.jsnl", PAIR, ("t.jsnl", "not read", "Did you mean '.jsonl'", ".parquet")),
    "no known columns": (
        "t.jsonl",
        lines({"question": "q", "completions": "c"}),
        ("question, completions", "Did you mean 'completion'", "data.columns"),
    ),
    "columns of two tasks": ("t.jsonl", lines({"text": "a", "completion": "b"}), ("sft and lm", "task: sft")),
    "no prompt column": (
        "t.jsonl",
        lines({"promt": "p", "completion": "c"}),
        ("line 1", "'prompt'", "'promt'", "columns"),
    ),
    "row without a column": ("t.jsonl", lines(GOOD_PAIRS[0], {"prompt": "p"}), ("t.jsonl, line 2", "'completion'")),
    "null": ("t.jsonl", lines(GOOD_PAIRS[0], {"prompt": "p", "completion": None}), ("line 2", "'completion'", "null")),
    "NaN": ("t.jsonl", lines('{"prompt": "p", "completion": NaN}'), ("line 1", "'completion'", "null")),
    "blank completion": ("t.jsonl", lines({"prompt": "p", "completion": " \n"}), ("line 1", "'completion'", "empty")),
    "blank prompt": ("t.jsonl", lines({"prompt": "", "completion": "c"}), ("line 1", "prompt", "empty")),
    "prompt that is a list": ("t.jsonl", lines({"prompt": ["p"], "completion": "c"}), ("line 1", "'prompt'", "list")),
    "completion that is true": (
        "t.jsonl",
        lines({"prompt": "p", "completion": True}),
        ("line 1", "'completion'", "bool"),
    ),
    "half a character": ("t.jsonl", lines('{"prompt": "\\ud800", "completion": "c"}'), ("line 1", "half a character")),
    "blank text": ("t.jsonl", lines({"text": " ", "label": "a"}), ("line 1", "'text'", "empty")),
    "null label": ("t.jsonl", lines({"text": "a", "label": None}), ("line 1", "label", "None")),
    "fraction as label": ("t.jsonl", lines({"text": "a", "label": 1.0}), ("line 1", "label", "1.0")),
    "blank label": ("t.jsonl", lines({"text": "a", "label": " "}), ("line 1", "label", "' '")),
    "one class": ("t.jsonl", lines(*({**row, "label": "a"} for row in GOOD_LABELS)), ("single class, 'a'",)),
    "only blank documents": ("t.jsonl", lines({"text": ""}, {"text": "\n"}), ("no text in all 2 rows",)),
    "messages that are text": ("t.jsonl", lines({"messages": "hi"}), ("line 1", "'messages'", "a list")),
    "turn without role": ("t.jsonl", lines({"messages": [{"content": "hi"}]}), ("line 1", "turn 1", "role")),
    "turn without content": ("t.jsonl", lines({"messages": [{"role": "user"}]}), ("turn 1", "null")),
    "answer of blanks": (
        "t.jsonl",
        lines({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}),
        ("turn 2", "empty"),
    ),
    "nobody answers": (
        "t.jsonl",
        lines({"messages": [{"role": "user", "content": "hi"}]}, {"messages": [{"role": "user", "content": "ho"}]}),
        ("no turn that the assistant answers in all 2 rows",),
    ),
    "one document": ("t.txt", b"a single document", ("too few", "document_separator", r"\n\n\n", "data.valid")),
    "few prompts": ("t.jsonl", lines(*GOOD_PAIRS[:2]), ("2 units (same prompt)", "data.valid and data.test")),
}


def expect(words: tuple[str, ...], make: Callable[[], object], kind: type[UserError] = UserError) -> None:
    with pytest.raises(kind) as caught:
        make()
    message, place = str(caught.value), 0
    for word in words:
        assert word in message[place:], f"{word!r} is not in {message[place:]!r}"
        place = message.index(word, place)


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_file_that_cannot_be_used_is_told_with_its_place(
    case: str, tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    name, content, words = BROKEN_FILES[case]
    (tmp_path / name).write_bytes(content)
    expect(words, lambda: prepare(make_study({"train": str(tmp_path / name)})))


# name of the case -> (rows of train, settings of the data, words of the message)
BROKEN_SETTINGS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], tuple[str, ...]]] = {
    "unknown placeholder": (GOOD_PAIRS, {"template": "{promt}"}, ("'promt'", "data.template", "Did you mean 'prompt'")),
    "unbalanced brace": (GOOD_PAIRS, {"template": "{prompt"}, ("data.template", "{prompt", "twice")),
    "nameless placeholder": (GOOD_PAIRS, {"template": "{}"}, ("data.template", "{prompt}")),
    "format in a placeholder": (GOOD_PAIRS, {"template": "{prompt:>9}"}, ("data.template", "{prompt}")),
    "mapped to nothing": (GOOD_PAIRS, {"columns": {"prompt": "querstion"}}, ("'querstion'", "prompt, completion")),
    "no group column": (GOOD_PAIRS, {"group": "module"}, ("'module'", "data.group")),
    "prompts beyond the maximum": (
        [{"prompt": "word " * 50, "completion": "c"}, *GOOD_PAIRS],
        {"max_length": 32, "max_truncated": 0},
        ("train: 1 of", "32 tokens", "1 of them with the prompt alone", "train:1", "max_truncated", "max_length"),
    ),
    "answers beyond the maximum": (
        [{"prompt": "p", "completion": "word " * 50}, *GOOD_PAIRS],
        {"max_length": 32, "max_truncated": 0},
        ("train: 1 of", "32 tokens", "train:1", "max_truncated"),
    ),
    "no such template": (
        [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}],
        {"chat_template": "nowhere/chat.jinja"},
        ("chat_template", "chat.jinja"),
    ),
}


@pytest.mark.parametrize("case", BROKEN_SETTINGS)
def test_a_setting_that_does_not_fit_the_data_is_named(
    case: str, tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    rows, settings, words = BROKEN_SETTINGS[case]
    train = write_rows(tmp_path / "train.jsonl", rows)
    expect(words, lambda: prepare(make_study({"train": train, **settings})))


def test_a_missing_file_is_told_with_the_nearest_name(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    write_rows(tmp_path / "train.jsonl", GOOD_PAIRS)
    for name, words in {
        "trian.jsonl": ("no such file", "trian.jsonl", "Did you mean 'train.jsonl'"),
        "deep/er/train.jsonl": ("no such file", "folder", "does not exist"),
    }.items():
        expect(words, lambda name=name: prepare(make_study({"train": str(tmp_path / name)})))


def test_an_unknown_builtin_is_told_with_the_nearest_name(prepare: Callable[..., Prepared]) -> None:
    words = ("builtin source 'stdlb'", "Did you mean 'stdlib'", "pydoc-topics")
    expect(words, lambda: prepare(make_study({"train": "builtin:stdlb"})), SpecError)


def test_a_label_that_train_lacks_is_told_with_the_classes_there(
    tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    train = write_rows(tmp_path / "train.jsonl", GOOD_LABELS)
    valid = write_rows(tmp_path / "valid.jsonl", [{"text": "new", "label": "a"}, {"text": "newer", "label": "c"}])
    words = ("valid:2", "'c'", "not in train", "1 of 2", "a, b")
    expect(words, lambda: prepare(make_study({"train": train, "valid": valid, "test": train, "duplicates": "keep"})))


def test_a_task_given_for_other_columns_is_told_what_it_needs(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    train = write_rows(tmp_path / "train.jsonl", GOOD_PAIRS)
    expect(("'text'", "the task classify"), lambda: prepare(make_study({"train": train}, task="classify")))


def test_test_rows_that_are_all_of_train_leave_nothing(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    train = write_rows(tmp_path / "train.jsonl", GOOD_PAIRS)
    study = make_study({"train": train, "valid": train, "test": train})
    expect(("60 of 60 rows of train", "nothing is left"), lambda: prepare(study))
