"""Studies, rows and small files for the tests of the data side."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tunewise.lab.data.prepare import PreparedExamples
from tunewise.lab.data.rows import Row, Text, input_key
from tunewise.spec import StudySpec

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


@dataclass(frozen=True)
class Prepared:
    """The summary of prepared data and its tables as rows."""

    summary: PreparedExamples
    tables: dict[str, list[dict[str, Any]]]
