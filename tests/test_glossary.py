"""The glossary: every term in two sentences with a page that says more, found by any of its names."""

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from test_site import anchors
from tunewise.desk.metrics.metrics import METRICS
from tunewise.desk.report import wording
from tunewise.desk.report.glossary import Term, explained, meaning, terms
from tunewise.desk.statistics.verdict import Outcome
from tunewise.errors import SpecError

DOCS = Path(__file__).parents[1] / "docs"
PAGES = Path(wording.__file__).parent / "pages"


@pytest.mark.parametrize("term", terms().values(), ids=lambda term: term.name)
def test_a_term_has_two_sentences_and_a_page_that_says_more(term: Term) -> None:
    assert len(re.findall(r"[.](?= [A-Z0-9*`]|$)", term.meaning)) == 2, term.meaning
    assert max(len(sentence.split()) for sentence in term.meaning.split(". ")) <= 30
    page, _, anchor = term.page.partition("#")
    assert (DOCS / page).is_file()
    assert not anchor or anchor in anchors(DOCS / page)


def test_no_name_means_two_things() -> None:
    names = Counter(name.lower() for term in terms().values() for name in (term.name, *term.also))
    assert [name for name, number in names.items() if number > 1] == []


def test_a_term_is_found_by_any_name_in_any_case() -> None:
    assert explained("holm").name == explained("Holm-adjusted").name == "Holm's correction"
    assert explained(" Interim  LOOK ").name == "look"


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(SpecError, match=r"unknown term 'headrom'. Did you mean 'headroom'\?"):
        explained("headrom")


def test_every_term_that_the_report_marks_is_explained() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES.glob("*.j2"))
    marked = re.findall(r"\bterm\('([^']+)'\)", text)
    assert len(marked) > 12
    said = [wording.OUTCOMES[outcome] for outcome in get_args(Outcome)]
    labels = [metric.label for metric in METRICS.values()]
    assert [name for name in (*marked, *said, *labels, "withheld") if meaning(name) is None] == []


def test_a_tooltip_is_plain_text() -> None:
    assert not [term.name for term in terms().values() if re.search("[*`]", meaning(term.name) or "")]
