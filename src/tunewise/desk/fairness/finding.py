"""A finding of a fairness rule, and the outcomes that it forbids."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self, TypeVar

from pydantic import model_validator

from tunewise.desk.statistics.verdict import Word
from tunewise.spec import Frozen

Severity = Literal["blocks", "warns", "note"]
Value = TypeVar("Value")
WORDS: tuple[Word, ...] = ("better", "as good", "worse")


class Finding(Frozen):
    """One thing a reader must know before believing the verdict."""

    id: str
    severity: Severity
    sentence: str
    evidence: str  # the numbers behind the sentence
    arms: tuple[str, ...] = ()  # a blocking finding applies to comparisons with one of these arms; (): to all
    forbids: tuple[Word, ...] = ()  # outcomes that a blocking finding withholds from those comparisons

    @model_validator(mode="after")
    def _forbids_if_it_blocks(self) -> Self:
        if (self.severity == "blocks") != bool(self.forbids):
            raise ValueError("a finding forbids outcomes if, and only if, it blocks")
        return self

    def concerns(self, arm: str, full: str) -> bool:
        """Whether the comparison of `arm` with `full` is affected."""
        return not self.arms or arm in self.arms or full in self.arms


def count(number: int, thing: str) -> str:
    """'1 seed', '2 seeds'."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def by_arm(values: Mapping[str, Value], shown: Callable[[Value], str]) -> str:
    """'lora: 3 of 3 runs; full: 2 of 3 runs'."""
    return "; ".join(f"{arm}: {shown(value)}" for arm, value in values.items())
