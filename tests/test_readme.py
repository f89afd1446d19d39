"""What the documents say is so: the file tree, the links, and every Python block, which runs."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DESIGN = ROOT / "docs" / "explanation" / "design.md"  # holds the tree of files


def programs_of(path: Path) -> list[str]:
    """The Python blocks of a page; those of a tutorial are one program. Those of docs/learn run in test_learn.py."""
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.S | re.M)
    if path.parent.name == "learn":
        return []
    return ["\n".join(blocks)] * bool(blocks) if path.parent.name == "tutorials" else blocks


BLOCKS = [
    pytest.param(code, id=f"{path.relative_to(ROOT)}-{i}", marks=[pytest.mark.slow] * ("tw.compare(" in code))
    for path in DOCUMENTS
    for i, code in enumerate(programs_of(path))
    if "tw.compare(tw.read_study(" not in code  # needs a study of the reader's own
]


def test_every_path_of_the_file_tree_exists() -> None:
    tree = re.search(r"## Files\n+```\n(.*?)```", DESIGN.read_text(encoding="utf-8"), re.S)
    assert tree, "the page on the design has a section 'Files' with a tree"
    folders: list[str] = []
    for line in tree[1].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name]
        assert (ROOT / "/".join(part.rstrip("/") for part in folders)).exists(), line


def test_the_file_tree_says_of_every_folder_what_the_folder_says_of_itself() -> None:
    """Packages and the folders in them; a folder says what may be in it in the first line of its docstring."""
    expected = runpy.run_path(str(ROOT / "scripts" / "write_reference.py"))["file_tree"]()
    tree = DESIGN.read_text(encoding="utf-8").partition("\nsrc/tunewise/\n")[2].partition("```")[0]
    assert tree == expected, "the file tree of docs/explanation/design.md is old: run `make reference`"


ROOMS = "|".join(path.parent.name for path in (ROOT / "src" / "tunewise").glob("*/__init__.py"))
MODULE = re.compile(rf"`(?:src/tunewise/)?((?:{ROOMS})/[a-z_0-9/]*(?:\.[a-z0-9]+)?)`")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_that_a_document_names_exists(path: Path) -> None:
    if path.name in ("LOG.md", "CHANGELOG.md"):  # of what was so at its time
        return
    for name in MODULE.findall(path.read_text(encoding="utf-8")):
        assert (ROOT / "src" / "tunewise" / name).exists(), f"{path.name}: {name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_local_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS)
def test_every_python_block_runs(code: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
