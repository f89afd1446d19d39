"""General text for forgetting: a budget of tokens from as many documents as it reaches."""

from pathlib import Path
from typing import Any

import pytest
from data_helpers import make_study

from tunewise.errors import DataError
from tunewise.lab.data.rows import EncodedRow
from tunewise.lab.data.sources.builtin import pydoc_topics
from tunewise.lab.data.sources.general import WINDOW_TOKENS, general_examples
from tunewise.lab.data.tokens import TextTokenizer


def general(tokenizer: Any, tokens: int, text: str = "builtin:pydoc-topics", max_length: int = 512) -> list[EncodedRow]:
    study = make_study({"train": "builtin:stdlib"}, forgetting={"tokens": tokens, "text": text})
    return general_examples(study, TextTokenizer.of(tokenizer), max_length)


@pytest.mark.parametrize("tokens", [1, 100, 10_000])
def test_the_windows_keep_within_the_budget_and_nearly_use_it(tiny: Any, tokens: int) -> None:
    total = sum(sum(window.supervised) for window in general(tiny, tokens))
    assert max(1, tokens - WINDOW_TOKENS) <= total <= tokens


def test_ten_thousand_tokens_come_from_many_topics(tiny: Any) -> None:
    windows = general(tiny, 10_000)
    assert len({window.unit for window in windows}) == len(windows) >= 38


def test_no_document_gives_a_second_window_before_each_gave_one(tiny: Any) -> None:
    windows = general(tiny, 30_000)
    num_topics = len({row["text"] for row in pydoc_topics()})
    first_ones = [window.unit for window in windows[:num_topics]]
    assert len(set(first_ones)) == num_topics
    assert len(windows) > num_topics


def test_a_text_file_may_stand_in_for_the_topics(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "general.txt"
    path.write_text("first document\n\n\nsecond document")
    assert len({window.unit for window in general(tiny, 1000, str(path))}) == 2
    path.write_text(" \n")
    with pytest.raises(DataError, match="is empty"):
        general(tiny, 1000, str(path))
