"""Whatever is given: one clear message and exit status 2, or it is taken as it should be. Never a traceback."""

import sys
from functools import cache

import pytest
from bad_input_case import MISTAKE, Case, Outcome, outcome
from write_document import DOCUMENT, TOPICS, row_of

CASES = {f"{topic}: {case.what}": case for topic, cases in TOPICS.items() for case in cases}
MIN_CASES = 120


@cache
def found(what: str) -> Outcome:
    return outcome(CASES[what])


def check_words(case: Case, message: str) -> None:
    place = 0
    for word in case.words:
        assert word in message[place:], f"{word!r} is not in {message[place:]!r}"
        place = message.index(word, place) + len(word)


@pytest.mark.parametrize("what", CASES)
def test_bad_input_ends_in_one_message_and_good_input_is_taken(what: str) -> None:
    case, result = CASES[what], found(what)
    assert result.code == (0 if case.is_taken else MISTAKE), result.message
    assert "Traceback" not in result.message
    check_words(case, result.message)
    assert len(result.message) < 2_700, "a message is to be read"
    assert result.message.isprintable() or set(filter(lambda c: not c.isprintable(), result.message)) <= {"\n"}


def test_every_input_has_its_own_name_and_they_are_many() -> None:
    assert len(CASES) == sum(len(cases) for cases in TOPICS.values()), "no two are called the same"
    assert len(CASES) >= MIN_CASES


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the messages of json and re differ between Pythons")
def test_the_document_shows_every_message_as_it_is_printed() -> None:
    """Written by `python tests/bad_input/write_document.py`."""
    written = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [line for line in written if line.startswith("| ") and not line.startswith(("| input |", "| ---"))]
    assert rows == [row_of(case, found(what)) for what, case in CASES.items()]
