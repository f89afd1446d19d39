"""Prompt and completion: what is read, what is trained on, what is cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Prepared, make_row, make_study, write_rows
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tunewise.errors import ModelError
from tunewise.lab.data.examples import prompt_ids, prompt_length
from tunewise.lab.data.rows import EncodedRow
from tunewise.lab.data.sft import Pairs
from tunewise.lab.data.tokens import TextTokenizer
from tunewise.spec import DataSpec

TEXTS = st.text(min_size=1, max_size=40).filter(str.strip)
SHARED_FIXTURE = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def encode(tokenizer: Any, prompt: str, answer: str, max_length: int = 100_000) -> EncodedRow:
    pairs = Pairs(DataSpec(train="t"), TextTokenizer.of(tokenizer), max_length)
    return pairs.encode([make_row(prompt, answer)])[0]


def supervised_ids(encoded: EncodedRow) -> list[int]:
    return [token for token, mark in zip(encoded.input_ids, encoded.supervised, strict=True) if mark]


def plain(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text


@pytest.mark.parametrize("name", ["tiny", "gpt2"])
@example(prompt="a ", answer=" b")
@example(prompt="\n", answer="\n\n")
@example(prompt="é", answer="e\u0301 \U0001f600")
@given(prompt=TEXTS, answer=TEXTS)
@SHARED_FIXTURE
def test_exactly_the_completion_and_its_end_are_supervised(
    request: pytest.FixtureRequest, name: str, prompt: str, answer: str
) -> None:
    tokenizer = request.getfixturevalue(name)
    encoded = encode(tokenizer, prompt, answer)
    learnt = supervised_ids(encoded)
    assert learnt[-1] == tokenizer.eos_token_id
    assert plain(tokenizer, learnt[:-1]) == answer
    boundary = len(encoded.input_ids) - len(learnt)
    assert plain(tokenizer, encoded.input_ids[:boundary]) == prompt
    assert encoded.supervised == [False] * boundary + [True] * len(learnt)
    assert boundary > 0, "the first token has nothing to be predicted from"
    assert encoded.num_bytes == len(answer.encode())
    assert encoded.cut_tokens == 0


@pytest.mark.parametrize(("prompt", "answer"), [("Once", "upon a time"), ("Once ", " upon"), ("é\n", "\n雪 ")])
def test_a_tokenizer_that_puts_a_space_first_supervises_the_completion_too(
    stories: Any, prompt: str, answer: str
) -> None:
    encoded = encode(stories, prompt, answer)
    learnt = supervised_ids(encoded)
    assert plain(stories, learnt[:-1]) == answer
    assert learnt[-1] == stories.eos_token_id
    assert encoded.num_bytes == len(answer.encode())
    assert encoded.input_ids[: -len(learnt)] == stories(prompt)["input_ids"]


def test_bos_stands_first_once_where_the_tokenizer_adds_it(stories: Any, tiny: Any) -> None:
    assert stories.bos_token_id not in encode(stories, "Once", "upon").input_ids[1:]
    assert encode(stories, "Once", "upon").input_ids[0] == stories.bos_token_id
    assert encode(stories, "<s> Once", "upon").input_ids.count(stories.bos_token_id) == 1
    assert tiny.bos_token_id not in encode(tiny, "Once", "upon").input_ids[:-1]


def test_a_completion_that_ends_itself_gets_no_second_end(tiny: Any) -> None:
    assert encode(tiny, "p", "c<|endoftext|>").input_ids == encode(tiny, "p", "c").input_ids


def test_a_tokenizer_without_an_end_is_refused(stories: Any, tmp_path: Path) -> None:
    class Endless(type(stories)):
        eos_token_id = None

    endless = Endless(tokenizer_object=stories.backend_tokenizer)
    with pytest.raises(ModelError, match=r"no end-of-text piece.*eos_token"):
        encode(endless, "p", "c")


@given(prompt=TEXTS, answer=TEXTS, max_length=st.integers(8, 30))
@SHARED_FIXTURE
def test_a_long_answer_loses_its_end_and_every_lost_token_is_counted(
    tiny: Any, prompt: str, answer: str, max_length: int
) -> None:
    whole = encode(tiny, prompt, answer)
    cut = encode(tiny, prompt, answer, max_length)
    assert cut.input_ids == whole.input_ids[:max_length]
    assert cut.supervised == whole.supervised[:max_length]
    assert cut.cut_tokens == sum(whole.supervised) - sum(cut.supervised)
    assert cut.num_bytes <= whole.num_bytes
    if sum(cut.supervised) >= sum(whole.supervised) - 1:
        assert cut.num_bytes == whole.num_bytes, "the end-of-text piece is no text"


def test_the_prompt_is_the_template_filled_in_and_the_separator(
    tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    rows = [{"q": f"what {i}", "n": i, "a": "{n}!"} for i in range(40)]
    train = write_rows(tmp_path / "t.jsonl", rows)
    settings = {
        "columns": {"prompt": "q", "completion": "a"},
        "template": "{{x}} {prompt} {n}/{q}",
        "separator": " => ",
    }
    prepared = prepare(make_study({"train": train, **settings}))
    found = {row["example"]: row for split in prepared.tables.values() for row in split}
    assert found["train:8"]["prompt"] == "{x} what 7 7/what 7 => "
    assert found["train:8"]["reference"] == "{n}!"


def test_a_new_prompt_is_read_as_in_training(tmp_path: Path, prepare: Callable[..., Prepared], tiny: Any) -> None:
    rows = [{"prompt": f"word {i}", "completion": f"c {i}"} for i in range(40)]
    study = make_study(
        {"train": write_rows(tmp_path / "t.jsonl", rows), "template": "Q: {prompt}", "separator": "\nA:"}
    )
    for row in prepare(study).tables["test"]:
        number = row["example"].removeprefix("train:")
        read = row["input_ids"][: prompt_length("sft", row["supervised"])]
        assert prompt_ids(study, "sft", tiny, f"word {int(number) - 1}") == read


def test_rows_whose_prompt_leaves_no_room_are_dropped_and_counted(
    tmp_path: Path, prepare: Callable[..., Prepared], tiny: Any
) -> None:
    long_prompt = {"prompt": "word " * 60, "completion": "lost answer"}
    long_answer = {"prompt": "p", "completion": "word " * 60}
    good = [{"prompt": f"p {i}", "completion": "c"} for i in range(40)]
    files = {
        "train": write_rows(tmp_path / "train.jsonl", [long_prompt, long_answer, *good]),
        "valid": write_rows(tmp_path / "valid.jsonl", [{"prompt": "v", "completion": "c"}]),
        "test": write_rows(tmp_path / "test.jsonl", [{"prompt": "t", "completion": "c"}]),
    }
    prepared = prepare(make_study({**files, "max_length": 32}))
    summary = prepared.summary.splits[0]
    lost = len(tiny("lost answer")["input_ids"]) + 1
    cut = next(row for row in prepared.tables["train"] if row["example"] == "train:2")
    assert (summary.rows_read, summary.rows, summary.truncated_rows) == (42, 41, 2)
    whole = len(tiny("word " * 60)["input_ids"]) + 1
    assert summary.truncated_tokens == lost + whole - sum(cut["supervised"])
    assert len(cut["input_ids"]) == 32
    assert "1 were cut at the end and 1 dropped" in " ".join(prepared.summary.notes)
