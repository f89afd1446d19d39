"""The learner's pages: every block runs and prints what the page shows, and every figure is drawn from its records."""

import re
import runpy
from pathlib import Path

import pytest

from learn import PAGES, ROOT, blocks_of, run

FIGURES = ROOT / "docs" / "figures"
NOTES = [path for path in PAGES if re.match(r"0\d-", path.name)]
SKILLS = ROOT / "docs" / "learn" / "skills.md"
NUMBER = re.compile(r"-?\d+(\.\d+)?")


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_block_prints_what_the_page_shows(path: Path) -> None:
    for block, printed in zip(blocks_of(path), run(path), strict=True):
        assert printed == (block.shown or ""), f"run `python tests/learn.py`, and look at the change:\n{block.code}"


@pytest.mark.parametrize("path", NOTES, ids=lambda path: path.stem)
def test_a_note_has_a_picture_and_three_exercises_with_solutions(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    exercises, solutions = text.partition("## Exercises")[2].partition("## In depth")[0].split("??? note")
    assert re.findall(r"^(\d)\. ", exercises, re.M) == ["1", "2", "3"]
    assert re.findall(r"^    \*\*(\d)\.\*\* ", solutions, re.M) == ["1", "2", "3"]
    assert "](../figures/" in text
    lesson = text.partition("## Exercises")[0]
    words = len(re.sub(r"```.*?```|!\[.*?\)", "", lesson, flags=re.S).split())
    assert 500 <= words <= 1000, f"{words} words; a note has about 800"


def test_each_of_fifteen_skills_has_a_proof_and_a_page() -> None:
    rows = re.findall(r"^\| +(\d+) \| (.+?) \| (.+?) \| (\[.+?\]\(.+?\)) \|$", SKILLS.read_text(encoding="utf-8"), re.M)
    assert [int(number) for number, *_ in rows] == list(range(1, 16))
    for _, skill, proof, _ in rows:
        assert re.search(r"exercise|`|compute|checks|sentences", proof), skill
    exercises = {
        (int(e), note) for e, note in re.findall(r"exercise (\d) of note (0\d)", " ".join(row[2] for row in rows))
    }
    assert all(number <= 3 and any(path.name.startswith(note) for path in NOTES) for number, note in exercises)


def test_every_figure_is_shown_with_a_text_for_those_who_do_not_see_it() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")]
    texts = {name: alt for page in pages for alt, name in re.findall(r"!\[(.*?)\]\(\S*figures/([\w-]+)\.svg\)", page)}
    assert set(texts) == {path.stem for path in FIGURES.glob("*.svg")}
    assert min(len(alt) for alt in texts.values()) > 80, "an alternative text says what the figure shows"


def test_the_figures_are_those_that_the_script_draws_from_the_records(tmp_path: Path) -> None:
    """Texts, colors and marks are equal; places of marks may differ in the last digit on another machine."""
    for path in runpy.run_path(str(ROOT / "scripts" / "draw_figures.py"))["draw"](tmp_path):
        kept = (FIGURES / path.name).read_text(encoding="utf-8")
        drawn = path.read_text(encoding="utf-8")
        assert NUMBER.sub("#", drawn) == NUMBER.sub("#", kept), f"{path.name}: run `python scripts/draw_figures.py`"
        assert "prefers-color-scheme: dark" in kept
