"""`report --learn`: a paragraph for each section of the page and of the terminal, and none without the option."""

import io
import re
from html import unescape
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import words
from desk.conftest import write_study
from tunewise.cli.app import app
from tunewise.desk.report import wording
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.lessons import lessons
from tunewise.desk.report.pages.html import to_html
from tunewise.desk.report.terminal.text import print_report

PAGES = Path(wording.__file__).parent / "pages"
SOURCE = "".join((PAGES / name).read_text() for name in ("report.html.j2", "capacity.html.j2", "advice.html.j2"))
ELSEWHERE = {"Environment", "How to read this"}  # a list of facts, and the short form of the lessons
OPTIONAL = {"ranks", "placements", "low_rank"}  # only in studies that ask for them


def flat(text: str) -> str:
    return " ".join(text.split())


def in_terminal(folder: Path, *, learn: bool) -> str:
    written = io.StringIO()
    report = build_report(write_study(folder))
    print_report(report, Console(width=80, file=written), folder, lessons() if learn else {})
    return written.getvalue()


def test_every_section_of_the_page_has_a_lesson_and_every_lesson_a_section() -> None:
    assert sorted(re.findall(r"{{ lesson\('(\w+)'\) }}", SOURCE)) == sorted(lessons())
    for section in re.split(r"(?=<h2)", SOURCE)[1:]:
        title = re.sub(r"<[^>]+>", "", section.splitlines()[0])
        assert ("lesson(" in section) is (title not in ELSEWHERE), title


def test_the_page_shows_each_lesson_once_and_only_if_asked(tmp_path: Path) -> None:
    report = build_report(write_study(tmp_path))
    page = flat(unescape(to_html(report, (), lessons())))
    expected = {name: int(name not in OPTIONAL | {"curves"}) for name in lessons()}  # no figures are drawn here
    assert {name: page.count(flat(text)) for name, text in lessons().items()} == expected
    assert "lesson" not in to_html(report, ())


def test_the_terminal_shows_lessons_within_80_columns(tmp_path: Path) -> None:
    said = in_terminal(tmp_path, learn=True)
    assert max(len(line) for line in said.splitlines() if not line.startswith("report: ")) <= 80
    shown = [name for name, text in lessons().items() if flat(text) in flat(said)]
    assert shown == ["answer", "arms", "samples", "findings", "advice"]
    plain = flat(in_terminal(tmp_path / "again", learn=False))
    assert not [name for name, text in lessons().items() if flat(text) in plain]


@pytest.mark.parametrize("name", lessons())
def test_a_lesson_is_a_short_paragraph_in_the_projects_words(name: str) -> None:
    text = lessons()[name]
    sentences = re.split(r"(?<=[.?!]) ", text.strip())
    assert 2 <= len(sentences) <= 6
    assert max(len(sentence.split()) for sentence in sentences) <= 25
    assert [offender.found for offender in words.offenders_in(name, text)] == []


def test_the_command_explains_the_report_and_the_next_one_is_plain_again(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study").folder
    first = flat(lessons()["answer"])
    said = CliRunner().invoke(app, ["report", str(folder), "--learn"], env={"COLUMNS": "80"})
    assert said.exit_code == 0
    assert first in flat(said.output)
    assert first in flat((folder / "report.html").read_text())
    assert first not in flat(CliRunner().invoke(app, ["report", str(folder)]).output)
    assert first not in flat((folder / "report.html").read_text())
