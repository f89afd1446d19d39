"""The notebooks run from top to bottom, and what is stored below a cell is what it prints today."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "write_notebooks.py"))
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.py"))


def stored(name: str) -> list[dict[str, Any]]:
    content = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells: list[dict[str, Any]] = content["cells"]
    return cells


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_has_the_cells_of_its_source(name: str) -> None:
    source = (NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8")
    expected = [text for _, text in SCRIPT["cells_of"](source)]
    assert ["".join(cell["source"]) for cell in stored(name)] == expected, "run `python scripts/write_notebooks.py`"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_its_claims_hold(name: str) -> None:
    """Cells assert their claims. Losses differ in the last digits on another processor, so outputs are compared only in
    their kind; a cell that is tagged slow, a whole study, runs when the notebook is written."""
    outputs = {cell["id"]: cell["outputs"] for cell in SCRIPT["run"](name, slow=False) if "outputs" in cell}
    for cell in stored(name):
        if cell["id"] in outputs:
            kinds = [(output["output_type"], *output.get("data", ())) for output in outputs[cell["id"]]]
            assert kinds == [(output["output_type"], *output.get("data", ())) for output in cell["outputs"]]


def test_the_study_of_a_notebook_shows_its_verdict_and_charts() -> None:
    html = "".join(stored("is_it_as_good")[-2]["outputs"][-1]["data"]["text/html"])
    assert "% CI " in html
    assert html.count("<svg role=") >= 2
