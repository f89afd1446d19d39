"""docs/laws.md cannot go stale: every law has its test there or is listed as open, and every test file exists."""

import re
from pathlib import Path

LAWS = Path(__file__).parent
TEXT = (LAWS.parents[1] / "docs" / "laws.md").read_text(encoding="utf-8")
NUM_LAWS = 37


def sections() -> tuple[dict[int, str], dict[int, str]]:
    """Rows by number: of the laws that are tested, of those that are open."""
    tested, is_open = TEXT.split("## Open")
    tables = [{int(n): row for n, row in re.findall(r"^\| (\d+) \| (.*)$", part, re.M)} for part in (tested, is_open)]
    return tables[0], tables[1]


def numbers_in(path: Path) -> set[int]:
    return {int(number) for number in re.findall(r"def test_laws?_(\d\d)", path.read_text(encoding="utf-8"))}


def test_every_law_is_tested_or_open_and_none_is_both() -> None:
    tested, is_open = sections()
    assert sorted([*tested, *is_open]) == list(range(1, NUM_LAWS + 1))


def test_every_file_that_a_row_names_holds_a_test_of_its_law() -> None:
    for number, row in sections()[0].items():
        files = re.findall(r"`(test_\w+\.py)`", row)
        assert files, number
        assert any(number in numbers_in(LAWS / name) for name in files), number
        assert all((LAWS / name).is_file() for name in files), number


def test_no_law_with_a_test_is_listed_as_open() -> None:
    with_tests = set().union(*(numbers_in(path) for path in LAWS.glob("test_*.py")))
    assert not with_tests & set(sections()[1])
    assert set(sections()[0]) <= with_tests


def test_every_row_says_what_was_broken() -> None:
    assert "BREAK" not in TEXT
    for row in sections()[0].values():
        assert len(row.rstrip("| ").split(" | ")[-1]) > 5
