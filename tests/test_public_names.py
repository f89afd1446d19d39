"""What the package offers to a program: every public name, and every block of code in a docstring, which runs."""

import ast
import re
import shutil
import textwrap
from pathlib import Path

import pytest

import tunewise
import tunewise as tw

ROOT = Path(tunewise.__file__).parent


def blocks() -> dict[str, str]:
    """Indented or fenced code in any docstring of the package: 'module:line' -> code."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            for number, code in enumerate(re.findall(r"(?:^    .*\n?)+", text, re.MULTILINE)):
                if _is_code(textwrap.dedent(code)):
                    found[f"{path.relative_to(ROOT)}:{getattr(node, 'name', '')}:{number}"] = textwrap.dedent(code)
    return found


def _is_code(text: str) -> bool:
    return "import " in text or ">>>" in text or " = " in text


@pytest.fixture
def study_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study.yaml in the current folder; studies end before anything is trained."""
    shutil.copy(ROOT / "assets" / "studies" / "quickstart.yaml", tmp_path / "study.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "study.yaml"


class Ended:
    """Stands for a finished study."""

    class report:  # noqa: N801 - as the attribute is called
        verdicts = ("as good",)


@pytest.mark.parametrize("where", blocks())
def test_every_block_of_code_in_a_docstring_runs(
    where: str, study_of_a_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tw.StudySpec] = []
    monkeypatch.setattr("tunewise.commands.compare.compare", lambda study: asked.append(study) or Ended)
    exec(compile(blocks()[where], where, "exec"), {})
    assert capsys.readouterr().out == "('as good',)\n"
    assert [study.name for study in asked] == ["quickstart"]


def test_there_is_a_block_to_run() -> None:
    assert "__init__.py::0" in blocks()


@pytest.mark.parametrize("name", tw.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(tw, name).__doc__


def test_a_study_file_is_named_by_a_text_or_a_path(study_of_a_file: Path) -> None:
    assert tw.read_study("study.yaml") == tw.read_study(Path("study.yaml")) == tw.read_study(study_of_a_file)
    with pytest.raises(tw.SpecError, match="no such study file: nowhere.yaml"):
        tw.read_study("nowhere.yaml")
