"""Every sentence that a reader sees, as a stored listing: a change of wording is seen in review."""

import difflib
import runpy
from pathlib import Path

import pytest

from desk.test_verdict import text_study
from tunewise.desk.report import wording
from tunewise.desk.statistics.comparison import decide
from tunewise.spec import Margin

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


@pytest.mark.parametrize("harm", [-0.05, -0.01, 0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("margin", [0.001, 0.02, 0.5])
def test_a_card_shows_a_difference_large_only_if_it_is_decided(harm: float, margin: float) -> None:
    found = decide("lora", text_study(3, harm), "nll", Margin(absolute=margin))
    assert found.low is not None
    assert found.high is not None
    shown = wording.size_on_card(found)
    is_decided = found.outcome in ("better", "as good", "worse")
    assert (wording.figure("nll", abs(found.difference)) in shown) == is_decided
    if not is_decided:
        assert all(wording.figure("nll", abs(end)) in shown for end in (found.low, found.high))
