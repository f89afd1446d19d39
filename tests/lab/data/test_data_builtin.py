"""The data that comes with Python and with tunewise."""

from pathlib import Path

import pytest

from tunewise.errors import DataError
from tunewise.lab.data.sources.builtin import MAX_CHARACTERS, pydoc_topics, stdlib_pairs
from tunewise.lab.data.sources.tickets import tickets

SOURCE = '''
"""A module."""

def area(width: int, height=2, *, unit: str = "m") -> float:
    """
    The area.

        Indented.
    """

async def fetch(url): "Fetch it."

def silent(): pass

def long(): """%s"""

class Box:
    """A box."""
    def open(self):
        """Open it."""
        def inner(): "Not listed."
''' % ("x" * 300)


def test_pairs_are_signatures_and_clean_docstrings(tmp_path: Path) -> None:
    package = tmp_path / "shapes"
    package.mkdir()
    (package / "__init__.py").write_text(SOURCE)
    (package / "flat.py").write_text('def area(x):\n    "Area."\n\ndef area(x):\n    "Area."\n')
    for folder in ("test", "site-packages"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("print 1")
    pairs = [(row["prompt"], row["completion"], row["module"]) for row in stdlib_pairs(tmp_path)]
    assert pairs == [
        ("def area(width: int, height=2, *, unit: str='m') -> float:", "The area.\n\n    Indented.", "shapes"),
        ("async def fetch(url):", "Fetch it.", "shapes"),
        ("def Box.open(self):", "Open it.", "shapes"),
        ("def area(x):", "Area.", "shapes.flat"),
    ]


@pytest.mark.slow
def test_the_running_python_has_thousands_of_short_distinct_pairs() -> None:
    rows = list(stdlib_pairs())
    assert len(rows) > 3_000
    assert len({row["module"] for row in rows}) > 200
    assert len({(row["prompt"], row["completion"]) for row in rows}) == len(rows)
    assert all(len(row["prompt"]) + len(row["completion"]) < MAX_CHARACTERS for row in rows)
    assert not any(row["module"].split(".")[0] in ("test", "idlelib", "lib2to3") for row in rows)


def test_a_python_without_sources_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no sources"):
        list(stdlib_pairs(tmp_path))


def test_topics_are_documents_with_names() -> None:
    rows = list(pydoc_topics())
    assert len(rows) > 50
    assert {"text", "topic"} == set(rows[0])
    assert sum(len(row["text"]) for row in rows) > 100_000


def test_tickets_are_always_the_same_and_no_message_comes_twice() -> None:
    rows = list(tickets())
    assert rows == list(tickets())
    assert len({row["prompt"] for row in rows}) == len(rows) == 3456
    assert {row["completion"].split(". ")[0] for row in rows} == {"Team: repairs", "Team: delivery", "Team: billing"}


def test_a_ticket_is_answered_about_its_own_product() -> None:
    assert all(row["completion"].removesuffix(".").split()[-1] in row["prompt"] for row in tickets())
