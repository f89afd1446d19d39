"""The pages on the laws are current: every law is tested or listed as open, and every test that they name exists."""

import re
from pathlib import Path

LAWS = Path(__file__).parent
NUM_LAWS = 68
DOCS = LAWS.parents[1] / "docs"
TABLE, OPEN = re.split(r"^## .*$", (DOCS / "explanation" / "laws.md").read_text(encoding="utf-8"), flags=re.M)
DETAILS = (DOCS / "appendices" / "laws-turned-red.md").read_text(encoding="utf-8")


def numbers(table: str) -> list[int]:
    return [int(number) for number in re.findall(r"^\| (\d+) \|", table, re.M)]


def sections() -> dict[int, str]:
    """Text below the heading of each law: its tests, and what turned them red."""
    _, *parts = re.split(r"^## (\d+)\. ", DETAILS, flags=re.M)
    return {int(number): text for number, text in zip(parts[::2], parts[1::2], strict=True)}


def law_tests() -> dict[str, set[int]]:
    """file::name of every test that carries the numbers of laws -> these numbers."""
    found = {}
    for path in LAWS.glob("test_*.py"):
        for name in re.findall(r"^def (test_laws?_\w+)", path.read_text(encoding="utf-8"), re.M):
            carried = re.match(r"test_laws?((?:_and)?_\d\d)+", name)
            assert carried, name
            found[f"{path.name}::{name}"] = {int(number) for number in re.findall(r"\d\d", carried[0])}
    return found


def test_every_law_is_tested_or_open_and_none_is_both() -> None:
    assert sorted(numbers(TABLE) + numbers(OPEN)) == list(range(1, NUM_LAWS + 1))
    assert list(sections()) == numbers(TABLE)
    with_tests = set().union(*law_tests().values())
    assert with_tests == set(numbers(TABLE)), "a law with a test is not open, one without is"


def test_every_test_that_a_law_names_exists_and_carries_its_number() -> None:
    known = law_tests()
    for number, text in sections().items():
        named = re.findall(r"^- `(\w+\.py::\w+)`$", text, re.M)
        assert named, f"law {number} names no test"
        for name in named:
            assert number in known.get(name, set()), f"law {number} names {name}"
        endings = {name.partition(f"test_law_{number:02d}")[2] for name in named}
        for ending in re.findall(r"`…(\w+)`", text):
            assert ending in endings, f"law {number}: {ending} turned red, and is none of its tests"


def test_every_law_says_what_was_broken_to_see_it_red() -> None:
    for number, text in sections().items():
        assert re.search(r"^- broken on purpose, and the test that turned red:\n    - [\w`]", text, re.M), number


def test_both_pages_give_a_law_the_same_words() -> None:
    titles = dict(re.findall(r"^\| (\d+) \| (.*?) \|", TABLE, re.M))
    assert titles == dict(re.findall(r"^## (\d+)\. (.*)$", DETAILS, re.M))
