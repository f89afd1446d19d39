"""What a fairness rule says, and how a finding forbids words of the comparisons that it concerns."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import model_validator

from tunewise.desk.statistics.verdict import Word
from tunewise.spec import Frozen

Severity = Literal["blocks", "warns", "note"]
WORDS: tuple[Word, ...] = ("better", "as good", "worse")


class Finding(Frozen):
    """One thing a reader must know before believing the verdict."""

    id: str
    severity: Severity
    sentence: str
    evidence: str  # the numbers behind the sentence
    arms: tuple[str, ...] = ()  # a finding that blocks does so in comparisons that one of them is part of; (): in all
    forbids: tuple[Word, ...] = ()  # what a finding that blocks does not let those comparisons say

    @model_validator(mode="after")
    def _forbids_if_it_blocks(self) -> Self:
        if (self.severity == "blocks") != bool(self.forbids):
            raise ValueError("a finding forbids words if, and only if, it blocks")
        return self

    def concerns(self, arm: str, full: str) -> bool:
        """True where the comparison of `arm` with `full` is affected."""
        return not self.arms or arm in self.arms or full in self.arms


def count(number: int, thing: str) -> str:
    """'1 seed', '2 seeds'."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
