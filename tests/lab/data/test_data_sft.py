"""Prompt and completion: what is read, what is trained on, what is cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Prepared, make_row, make_study, write_rows

from tunewise.errors import ModelError
from tunewise.lab.data.rows import EncodedRow
from tunewise.lab.data.sft import Pairs
from tunewise.lab.data.tokens import TextTokenizer
from tunewise.spec import DataSpec


def encode(tokenizer: Any, prompt: str, answer: str, max_length: int = 100_000) -> EncodedRow:
    pairs = Pairs(DataSpec(train="t"), TextTokenizer.of(tokenizer), max_length)
    return pairs.encode([make_row(prompt, answer)])[0]


def supervised_ids(encoded: EncodedRow) -> list[int]:
    return [token for token, mark in zip(encoded.input_ids, encoded.supervised, strict=True) if mark]


def plain(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text


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


def test_a_completion_that_ends_itself_gets_no_second_end(tiny: Any) -> None:
    assert encode(tiny, "p", "c<|endoftext|>").input_ids == encode(tiny, "p", "c").input_ids


def test_a_tokenizer_without_an_end_is_refused(stories: Any, tmp_path: Path) -> None:
    class Endless(type(stories)):
        eos_token_id = None

    endless = Endless(tokenizer_object=stories.backend_tokenizer)
    with pytest.raises(ModelError, match=r"no end-of-text token.*eos_token"):
        encode(endless, "p", "c")


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
