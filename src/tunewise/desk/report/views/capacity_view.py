"""The report's part on capacity: which rank is enough, which modules, and whether the task is of low rank."""

from tunewise.desk.analysis.low_rank import LowRank
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.rank_curve import RankCurve
from tunewise.spec import Frozen


class DirectPoint(Frozen):
    """An arm that was trained at one rank and is the same as another in everything else, on valid."""

    arm: str
    rank: int
    parameters: int | None
    trial: float | None  # at its best rate with the seed of the search, as the truncations; None: not there yet
    value: float | None  # confirmed, mean over fresh seeds; None: not there yet
    low: float | None  # the lowest and the highest of the seeds
    high: float | None
    num_seeds: int


class RankView(RankCurve):
    """One adapter at every rank, beside adapters that were trained at theirs."""

    direct: tuple[DirectPoint, ...]  # by rising rank
    words: str  # what the curve says, and what it does not
    spread_arm: str | None  # YAML of an arm with the parameters of the candidate spread; None: nothing to spread


class PlacementPoint(Frozen):
    """An arm of one placement among others that train as many parameters."""

    arm: str
    targets: str
    rank: int
    parameters: int
    valid: float  # what selection looks at, on valid, mean over the seeds
    value: float  # the study's metric, on test
    difference: Estimate | None  # on test from the one named; None: that one itself
    is_behind: bool  # the interval of the difference leaves 0 out, and what a rate between those tried may gain


class PlacementView(Frozen):
    """Placements at equal budget, and the one that was best on valid."""

    metric: str  # of test
    best: str | None  # the arm that is named; None: a fairness rule forbids it
    num_seeds: int
    num_units: int  # of test
    confidence: float  # of each interval: so that all of them hold together in 95 % of studies (Bonferroni)
    points: tuple[PlacementPoint, ...]  # the best on valid first
    words: str


class LowRankView(LowRank):
    """What full fine-tuning changed, in words."""

    words: str  # how many directions the change has
    causes: tuple[str, ...]  # a sentence for every arm that was trained at an extracted rank


class CapacityView(Frozen):
    """What the study says of rank; empty where it does not ask."""

    ranks: tuple[RankView, ...] = ()
    placements: tuple[PlacementView, ...] = ()
    low_rank: LowRankView | None = None  # None: no adapter was cut out of full fine-tuning
