"""The skills of assets/skills.yaml, and the comparison of an answer with what this machine computes."""

import functools
import logging
import math
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

from tunewise.assets import table
from tunewise.commands.learn.answers import ANSWERS, Value
from tunewise.errors import SpecError

TOLERANCE = 0.01  # of a number that is not whole: answers are rounded to two or three digits


class Skill(NamedTuple):
    """One entry of assets/skills.yaml."""

    number: int
    can: str
    proof: str
    read: str  # relative to docs/learn/
    task: str
    answer: tuple[str, ...]  # what to give, in order
    tolerance: float

    @property
    def page(self) -> str:
        """The page to read, below the repository."""
        return f"docs/learn/{self.read}".replace("learn/../", "")


@functools.cache
def skills() -> Mapping[int, Skill]:
    """Every skill by its number."""
    found = {
        number: Skill(
            number, of["can"], of["proof"], of["read"], of["task"], tuple(of["answer"]), of.get("tolerance", TOLERANCE)
        )
        for number, of in table("skills.yaml").items()
    }
    return MappingProxyType(found)


def skill(number: int) -> Skill:
    """The skill of that number. Raises SpecError if there is none."""
    if number not in skills():
        raise SpecError(
            f"there is no skill {number}. Allowed: 1 to {len(skills())}. `tunewise learn --list` shows them."
        )
    return skills()[number]


def wrong_parts(of: Skill, answer: str) -> tuple[str, ...]:
    """The parts of an answer that are not right, by name; () if all are.

    Raises SpecError if the answer has another number of parts, and UserError if a folder in it cannot be read.
    """
    words = _words(of, answer)
    with _without_warnings():
        expected = ANSWERS[of.number](words)
    return tuple(
        name
        for name, word, value in zip(of.answer, words, expected, strict=True)
        if not _is_right(word, value, of.tolerance)
    )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide warnings of libraries about this machine: a learner cannot act on them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def _words(of: Skill, answer: str) -> Sequence[str]:
    try:
        words = shlex.split(answer.replace(", ", " "))
    except ValueError as error:
        raise SpecError(f"the answer cannot be read: {error}. Close the quotation marks.") from error
    if len(words) != len(of.answer):
        asked = f"{len(of.answer)} part{'' if len(of.answer) == 1 else 's'}"
        raise SpecError(
            f"the answer to skill {of.number} has {asked}, separated by spaces: {', '.join(of.answer)}. "
            f"Given: {len(words)}. Write numbers without spaces, and a path with spaces in quotation marks."
        )
    return words


def _is_right(word: str, value: Value, tolerance: float) -> bool:
    if isinstance(value, str):
        return word == value or word.lower().replace(" ", "-") == value.lower().replace(" ", "-")
    try:
        number = float(word.replace(",", "").replace("_", ""))
    except ValueError:
        return False
    return number == value if isinstance(value, int) else math.isclose(number, value, rel_tol=tolerance)
