"""Looks: the numbers of seeds at which verdicts are read, with the error that each may spend.

The errors of several looks at 2.5% each add up: with a margin far below the standard error, two of them called equal
arms better or worse in 7 to 8% of studies, although both outcomes together may err in 5%. With small errors at interim
looks, the last look keeps its plain 95% interval (Peto et al. 1976, Br. J. Cancer 34).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tunewise.desk.statistics.power import ONE_SIDED_ERROR
from tunewise.desk.statistics.verdict import Outcome

FEW_SEEDS = 5  # with fewer, Satterthwaite's degrees of freedom are too many so far in the tail
EARLY_ERROR = 0.005  # one-sided, of an interim look
FEW_SEEDS_ERROR = 0.0025  # of one with few seeds
INTERIM_ERROR = 0.0075  # of all interim looks together
# An inconclusive arm ends at an interim look if the last one would decide with less than this chance. Low with few
# seeds, whose spread says little.
LEAST_CHANCE, LEAST_CHANCE_OF_FEW = 0.20, 0.05


@dataclass(frozen=True)
class Look:
    """One look of a study."""

    seeds: int
    last: int  # seeds of the last look
    error: float  # one-sided, of each outcome
    can_stop: bool = False  # an arm that the last look would hardly decide ends here
    # of the arms that ended at an earlier look: the outcomes in every declared metric
    left: Mapping[str, tuple[Outcome, ...]] = field(default_factory=dict)

    @property
    def is_last(self) -> bool:
        """Whether no look follows."""
        return self.seeds == self.last

    @property
    def most_freedom(self) -> float:
        """Upper limit of the degrees of freedom."""
        return self.seeds - 1 if self.seeds < FEW_SEEDS and not self.is_last else math.inf

    @property
    def least_chance(self) -> float:
        """The chance of an outcome at the last look below which an inconclusive arm ends here."""
        if not self.can_stop or self.is_last:
            return 0.0
        return LEAST_CHANCE_OF_FEW if self.seeds < FEW_SEEDS else LEAST_CHANCE


def looks_of(seeds: Sequence[int], can_stop: bool) -> list[Look]:
    """The looks at these numbers of seeds; the last one has the full error of 2.5%."""
    interim = [FEW_SEEDS_ERROR if number < FEW_SEEDS else EARLY_ERROR for number in seeds[:-1]]
    scale = min(1.0, INTERIM_ERROR / sum(interim)) if interim else 1.0
    errors = [*(error * scale for error in interim), ONE_SIDED_ERROR]
    return [Look(number, seeds[-1], error, can_stop) for number, error in zip(seeds, errors, strict=True)]


LAST = Look(seeds=FEW_SEEDS, last=FEW_SEEDS, error=ONE_SIDED_ERROR)  # a study of one look
