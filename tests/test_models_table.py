"""docs/reference/models.md: its table of architectures is what `scripts/models_table.py` finds."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
# One with fused projections, one with experts beside dense layers, one with state-space layers.
FAST = ("Phi-3", "DeepSeek-V3", "Falcon-H1")


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("models_table")
        for name in ("models_table", "architectures"):
            sys.modules.pop(name, None)


def require_in_page(script: Any, name: str) -> None:
    row = script.measured(name)
    assert "| " + " | ".join(row.cells) + " |" in PAGE.splitlines(), "run scripts/models_table.py"
    short = [line for line in PAGE.splitlines() if line.startswith(f"- {name}: ")]
    assert short == ([f"- {name}: {row.problem}"] if row.problem else [])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_a_row_of_the_table_is_what_is_found_today(script: Any, name: str) -> None:
    require_in_page(script, name)


@pytest.mark.slow
def test_every_other_row_is_what_is_found_today(script: Any) -> None:
    for name in script.ARCHITECTURES:
        if name not in FAST:
            require_in_page(script, name)


def test_the_table_has_a_row_for_every_architecture_and_no_other(script: Any) -> None:
    begin, end = (PAGE.index(mark) for mark in script.MARKS)
    rows = [line for line in PAGE[begin:end].splitlines() if line.startswith("| ")][2:]
    assert [row[2:].partition(": ")[0] for row in rows] == list(script.ARCHITECTURES)
    assert len(rows) >= 25
