"""All that people read keeps to the project's words: one term for each concept, no phrase of the list, one spelling."""

import re
from collections import Counter

import pytest

import words

GLOSSARY = words.ROOT / "docs" / "explanation" / "glossary.md"


def found_in(text: str) -> list[str]:
    return [offender.found for offender in words.offenders_in("a page", words.prose_of_markdown(text))]


@pytest.mark.slow
def test_no_text_breaks_a_rule_of_the_word_list() -> None:
    found = words.offenders()
    by_file = Counter(offender.path for offender in found)
    shown = "\n".join([f"{count:4} {path}" for path, count in by_file.most_common()] + [str(o) for o in found[:200]])
    assert not found, f"{len(found)} places (python tests/words.py [PATH...] prints them):\n{shown}"


@pytest.mark.parametrize(
    "text",
    [
        "the loss on valid",
        "the arm is undecided",
        "its tokens and pieces",
        "the plan stands beside the record",
        "the traceback lies in the log",
        "the memory is told as None",
        "killed for want of memory",
        "classifications report it, too.",
        "prompt and completion become\ntokens apart from each other",
        "an option that is no number",
        "fix it once it is mended",
        "nll (lower is better)",
        "the optimiser behaves",
        "a neighbour of the best rate",
        "an uninitialised head",
        "a 95 % interval",
    ],
)
def test_each_kind_of_fault_is_found(text: str) -> None:
    assert len(found_in(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "the value `undecided` in report.json",
        "the file `valid.jsonl`, or [valid](valid.md)",
        "```yaml\nsplit: {valid: 0.1}  # undecided on valid\n```",
        "there is no margin",
        "a list of valid JSON objects",
        "it is no longer than the prompt, which is too long",
        "most of it is padding",
        "the finding `different-regularisation` blocks",
    ],
)
def test_code_and_plain_english_are_left_alone(text: str) -> None:
    assert found_in(text) == []


def test_a_phrase_is_named_with_its_line() -> None:
    [offender] = words.offenders_in("a page", "first\nsecond\nkilled for want\nof memory")
    assert (offender.line, offender.found) == (3, "for want of")


def test_every_term_of_the_list_is_in_the_glossary() -> None:
    entries = re.findall(r"^\*\*(.+?)\*\*", GLOSSARY.read_text(encoding="utf-8"), re.M)
    assert {row["term"] for row in words.word_list()["terms"]} <= {entry.lower() for entry in entries}


def test_the_glossary_is_sorted() -> None:
    entries = re.findall(r"^\*\*(.+?)\*\*", GLOSSARY.read_text(encoding="utf-8"), re.M)
    assert entries == sorted(entries, key=str.lower)
