"""The generated pages of docs/reference/ are those of today's code, and every public name has an example that runs."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import tunewise as tw

ROOT = Path(__file__).parents[1]
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "write_reference.py"))
REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize("name", SCRIPT["PAGES"])
def test_a_generated_page_is_what_the_code_says_today(name: str) -> None:
    written = (REFERENCE / name).read_text(encoding="utf-8")
    assert written == SCRIPT["PAGES"][name]().rstrip() + "\n", f"docs/reference/{name} is old: run `make reference`"


@pytest.mark.parametrize("name", tw.__all__)
def test_every_public_name_is_in_an_example_that_is_run(name: str) -> None:
    page = (REFERENCE / "python-api.md").read_text(encoding="utf-8")
    examples = "".join(re.findall(r"^```python\n(.*?)^```", page, re.S | re.M))  # tests/test_readme.py runs them
    assert re.search(rf"\btw\.{name}\b", examples)


def test_every_key_and_field_has_a_meaning() -> None:
    for name in ("study.md", "report-json.md", "scores.md", "cli.md"):
        for row in (REFERENCE / name).read_text(encoding="utf-8").splitlines():
            if row.startswith("| `"):
                cells = re.split(r"(?<!\\)\|", row)[1:-1]
                assert all(cell.strip() for cell in cells[:3]), f"{name}: {row}"


def test_a_field_without_a_meaning_is_an_error() -> None:
    class Unexplained(tw.Limits):
        nothing_says_what: int = 0

    with pytest.raises(KeyError):
        SCRIPT["meaning"](Unexplained, "nothing_says_what")
