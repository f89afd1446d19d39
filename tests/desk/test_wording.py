"""Every sentence that a reader sees, as a stored listing: a change of wording is seen in review."""

import difflib
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).parent / "wording.txt"
AGAIN = "python scripts/print_wording.py > tests/desk/wording.txt"
NO_LONGER = ("undecided ", " on valid", "cut down", "lies ", "too.", "by itself", " harm")


def test_the_stored_listing_of_all_sentences_is_todays() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "print_wording.py"))
    today = [line for title, lines in script["sections"]() for line in (f"== {title}", *lines, "")]
    stored = STORED.read_text(encoding="utf-8").splitlines()
    assert not list(difflib.unified_diff(stored, today, "stored", "today", lineterm="", n=0)), AGAIN


def test_a_verdict_answers_first_and_never_shows_a_sign_with_a_direction() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "print_wording.py"))
    heads = ("Better: ", "As good within the margin: ", "Worse: ", "Inconclusive: ", "Verdict withheld: ")
    composed = [line for line in script["verdicts"]() if "Based on" in line]
    assert len(composed) > 15
    assert all(line.startswith(heads) for line in composed)
    assert not any("is better;" in line or "lower is" in line for line in composed)


def test_phrases_that_are_no_english_do_not_come_back() -> None:
    listing = STORED.read_text(encoding="utf-8").replace("undecided -> ", "")
    assert not [phrase for phrase in NO_LONGER if phrase in listing]
