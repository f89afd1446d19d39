"""Regular expressions from a file, matched against module names without a risk of hanging.

Python's `re` backtracks. The time of a pattern such as `(a+)+$` doubles with every character, and nothing can stop the
match. So a pattern whose worst case is too long is refused before it is tried, and matching many names has a time
limit.
"""

import time
from collections.abc import Iterable, Sequence
from math import comb, inf

# Python's own parser of patterns. It has no public name; `sre_parse` is its deprecated one.
from re import _constants as kinds  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from tunewise.errors import ModelError
from tunewise.text.regex import compiled

MAX_PATTERN = 20_000  # characters; one pattern listing every module of a large model has about 10,000
MAX_STEPS = 10**8  # of the worst case for one name: a few seconds
MAX_SECONDS = 10.0  # for all names; real patterns take milliseconds
REPEATS = (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT)


class NamePattern:
    """A pattern that is known to finish on names of at most `longest` characters. Raises ModelError for any other."""

    def __init__(self, pattern: str, where: str, longest: int) -> None:
        self.pattern, self.where = pattern, where
        if len(pattern) > MAX_PATTERN:
            raise ModelError(
                f"{where}: the pattern has {len(pattern):,} characters; at most {MAX_PATTERN:,} are allowed."
            )
        try:
            self._compiled = compiled(pattern)
        except ValueError as error:
            raise ModelError(
                f"{where}: {pattern[:80]!r} is not a valid regular expression: {error}. Correct it, or list the names "
                "of the modules."
            ) from error
        repeats, choices = _freedom(parser.parse(pattern))
        if repeats > longest or comb(longest + int(repeats), int(repeats)) * choices > MAX_STEPS:
            raise ModelError(
                f"{where}: the regular expression {pattern[:80]!r} could take hours to match, because a repeated "
                "part can match in many ways. Replace it with the names of the modules, or a simpler pattern such "
                r"as '.*\.q_proj'."
            )

    def matching(self, names: Iterable[str], end: float | None = None) -> list[str]:
        """Those of `names` that the whole pattern matches.

        Raises ModelError if the clock (`time.monotonic`) passes `end`; None: MAX_SECONDS from now.
        """
        found, end = [], deadline() if end is None else end
        for name in names:
            if self._compiled.fullmatch(name):
                found.append(name)
            if time.monotonic() > end:
                raise ModelError(
                    f"{self.where}: matching {self.pattern[:80]!r} takes more than {MAX_SECONDS:g} seconds. Replace it "
                    "with the names of the modules."
                )
        return found


def deadline() -> float:
    """Time at which matching that begins now must be over."""
    return time.monotonic() + MAX_SECONDS


def name_ends(key: str) -> str:
    """Pattern by which peft matches a key of `rank_pattern`: the whole name, or its end after a dot."""
    return rf"(.*\.)?({key})"


def _freedom(parts: Any) -> tuple[float, float]:
    """Ways in which a pattern can match a text: number of free repeats, and a factor for all other choices.

    A repeat of one character class is free: it may end anywhere. A repeat of something that itself has choices has no
    useful bound (inf).
    """
    repeats, choices = 0.0, 1.0
    for kind, value in parts:
        more, factor = _freedom_of(kind, value)
        repeats, choices = repeats + more, min(choices * factor, inf)
    return repeats, choices


def _freedom_of(kind: Any, value: Any) -> tuple[float, float]:
    if kind is kinds.BRANCH:
        return _freedom_of_branch(value[1])
    if kind is kinds.SUBPATTERN:
        return _freedom(value[3])
    if kind is kinds.ATOMIC_GROUP:
        return _freedom(value)
    if kind in (kinds.ASSERT, kinds.ASSERT_NOT):
        return _freedom(value[1])
    if kind is kinds.GROUPREF_EXISTS:
        return _freedom_of_branch([part for part in value[1:] if part])
    if kind not in REPEATS:
        return 0, 1
    low, high, body = value
    repeats, choices = _freedom(body)
    if high == 1:
        return repeats, choices + (low == 0)
    if repeats or choices > 1:
        return (repeats * high, choices**high) if low == high and high <= 8 else (inf, inf)
    return (0, 1) if low == high else (1, 1)


def _freedom_of_branch(alternatives: Sequence[Any]) -> tuple[float, float]:
    texts = [_literal(parts) for parts in alternatives]
    if None not in texts:  # plain alternatives match at one place only if one is a prefix of another
        return 0, max(sum(text.startswith(other) for other in texts) for text in texts)  # type: ignore[union-attr, arg-type]
    each = [_freedom(parts) for parts in alternatives]
    return max(repeats for repeats, _ in each), sum(choices for _, choices in each)


def _literal(parts: Any) -> str | None:
    items = list(parts)
    return "".join(chr(value) for _, value in items) if all(kind is kinds.LITERAL for kind, _ in items) else None
