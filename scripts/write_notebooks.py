"""Run the notebooks and write them with their output: notebooks/NAME.py (cells after `# %%`) -> notebooks/NAME.ipynb.

    python scripts/write_notebooks.py [NAME ...]

The sources have the percent format, which editors and jupytext read as notebooks. No Jupyter is needed: the cells of a
notebook are plain Python, run from top to bottom.
"""

import ast
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "notebooks"
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def cells_of(source: str) -> Iterator[tuple[str, str]]:
    """Kind (markdown, code or slow) and text of each cell; that of a markdown cell without its `# `."""
    for part in source.split("\n# %%")[1:]:
        mark, _, body = part.partition("\n")
        if "[markdown]" in mark:
            lines = body.strip("\n").splitlines()
            yield "markdown", "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)
        else:
            yield "slow" if '"slow"' in mark else "code", body.strip("\n")


def run_cell(code: str, names: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Outputs of a cell as a notebook stores them: what it printed, and the value of its last line."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    said, value = io.StringIO(), None
    with contextlib.redirect_stdout(said):
        exec(compile(tree, place, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), place, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if said.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": said.getvalue().splitlines(keepends=True)})
    if value is not None:
        outputs.append({"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": shown(value)})
    return outputs


def shown(value: Any) -> dict[str, Any]:
    """A value by media type, as Jupyter would ask for it; charts as SVG, which every viewer draws."""
    found: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_html_") and not hasattr(value, "to_dict"):
        found["text/html"] = value._repr_html_().splitlines(keepends=True)
    if hasattr(value, "_repr_svg_"):
        found["image/svg+xml"] = value._repr_svg_().splitlines(keepends=True)
    return found


def run(name: str, *, slow: bool = True) -> list[dict[str, Any]]:
    """Cells of one notebook with their outputs; cells tagged "slow" are left out unless `slow`."""
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = []
    for number, (kind, text) in enumerate(cells_of(source)):
        if kind == "slow" and not slow:
            continue
        of_kind = "markdown" if kind == "markdown" else "code"
        cell = {
            "cell_type": of_kind,
            "id": f"{name}-{number}",
            "metadata": {},
            "source": text.splitlines(keepends=True),
        }
        if of_kind == "code":
            cell |= {"execution_count": None, "outputs": run_cell(text, names, f"{name}, cell {number}")}
        cells.append(cell)
    return cells


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.py")):
        content = {"cells": run(name), "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5}
        (FOLDER / f"{name}.ipynb").write_text(
            json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        print(f"wrote notebooks/{name}.ipynb")
