"""Studies, rows and small files for the tests of the data side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from tunewise.lab.data.lm import Documents
from tunewise.lab.data.prepare import PreparedExamples
from tunewise.lab.data.rows import Row, Text, input_key
from tunewise.lab.data.sources.row_index import Source, group_column
from tunewise.lab.data.sources.sources import Table
from tunewise.lab.data.tokens import TextTokenizer
from tunewise.spec import DataSpec, Split, StudySpec

SHARED = Path(__file__).parents[4] / "shared"


def shared(name: str) -> Path:
    """A file of the shared data; skips the test where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the shared data has no {name} here")
    return path


def make_study(data: dict[str, Any], **others: Any) -> StudySpec:
    """A study of these data; forgetting is not measured unless asked for."""
    content = {"name": "s", "arms": {"full": {"method": "full"}}, "forgetting": {"tokens": 0}, "data": data}
    return StudySpec.model_validate({**content, **others})


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """A JSONL file; its name."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def make_row(prompt: str, answer: str = "", example: str = "train:1") -> Row:
    """A rendered row."""
    return Row(example, input_key(prompt), input_key(prompt), Text(prompt, answer))


def documents(rows: Mapping[Split, Sequence[dict[str, Any]]], data: DataSpec) -> dict[Split, Source]:
    """Sources of these rows, each a document; they are rendered without a tokenizer."""
    form = Documents(cast("TextTokenizer", None), 100)
    tables = {split: Table(f"{split}.jsonl", "line", partial(enumerate, rows[split], 1)) for split in rows}
    return {
        split: Source(split, table, form, data.columns_of(split), group_column(data)) for split, table in tables.items()
    }


@dataclass(frozen=True)
class Prepared:
    """The summary of prepared data and its tables as rows."""

    summary: PreparedExamples
    tables: dict[str, list[dict[str, Any]]]
