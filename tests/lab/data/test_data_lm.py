"""Plain text: every token but a document's first is predicted exactly once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Prepared, make_row, make_study, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunewise.lab.data.examples import prompt_ids, prompt_length
from tunewise.lab.data.lm import Documents
from tunewise.lab.data.rows import EncodedRow
from tunewise.lab.data.tokens import TextTokenizer


def windows(tokenizer: Any, document: str, max_length: int) -> list[EncodedRow]:
    return Documents(TextTokenizer.of(tokenizer), max_length).encode([make_row(document)])


@pytest.mark.parametrize("name", ["tiny", "gpt2", "stories"])
@given(document=st.text(min_size=1, max_size=200).filter(str.strip), max_length=st.integers(2, 40))
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_windows_predict_each_token_but_the_first_once(
    request: pytest.FixtureRequest, name: str, document: str, max_length: int
) -> None:
    tokenizer = request.getfixturevalue(name)
    whole = [*tokenizer(document)["input_ids"], tokenizer.eos_token_id]
    cut = windows(tokenizer, document, max_length)
    predicted = [
        token for window in cut for token, mark in zip(window.input_ids, window.supervised, strict=True) if mark
    ]
    assert predicted == whole[1:]
    assert all(len(window.input_ids) <= max_length and not window.supervised[0] for window in cut)
    assert len({window.example for window in cut}) == len(cut)
    for before, after in zip(cut, cut[1:], strict=False):
        assert after.input_ids[0] == before.input_ids[-1]


@pytest.mark.parametrize("max_length", [2, 3, 7, 1000])
def test_the_bytes_of_all_windows_are_those_of_the_text_that_is_predicted(
    tiny: Any, stories: Any, max_length: int
) -> None:
    document = "Größe: 雪 \U0001f600, and then\n\nsome more plain text. "
    # BOS is read first, so all of the text is predicted; without it all but the first token
    assert sum(window.num_bytes for window in windows(stories, document, max_length)) == len(document.encode())
    first = tiny.decode(tiny(document)["input_ids"][:1])
    total = sum(window.num_bytes for window in windows(tiny, document, max_length))
    assert total == len(document.encode()) - len(first.encode())


def test_a_sample_goes_on_where_its_prompt_ends(tiny: Any) -> None:
    document = "It was a bright cold day in April, and the clocks were striking thirteen. " * 9
    cut = windows(tiny, document, 100)
    for window in cut:
        length = prompt_length("lm", window.supervised)
        assert tiny.decode(window.input_ids[:length]) == window.prompt
        assert tiny.decode(window.input_ids[length:]).removesuffix("<|endoftext|>") == window.reference
    assert document.startswith(cut[0].prompt + cut[0].reference)


def test_blank_documents_are_left_out_and_counted(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    rows = [{"text": f"document {i}" if i % 2 else " \n"} for i in range(80)]
    prepared = prepare(make_study({"train": write_rows(tmp_path / "t.jsonl", rows)}))
    assert sum(split.units for split in prepared.summary.splits) == 40
    assert "40 of 80 rows of train were left out: no text." in prepared.summary.notes


def test_a_limit_counts_windows_and_takes_them_from_many_documents(
    tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n\n".join(f"chapter {i} " + "goes on and on " * 200 for i in range(60)))
    prepared = prepare(make_study({"train": str(path), "limit": {"train": 20}, "max_length": 64}))
    train = prepared.summary.splits[0]
    assert train.rows == 20
    assert train.units > 10
    assert prepared.summary.task == "lm"


def test_a_new_prompt_is_read_as_the_beginning_of_a_document(stories: Any, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("some text")
    assert prompt_ids(make_study({"train": str(path)}), "lm", stories, "Once upon") == stories("Once upon")["input_ids"]
