"""The capacity section of the report: rank, modules, and the low-rank analysis."""

from tunewise.desk.analysis.low_rank import LowRank
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.rank_curve import RankCurve
from tunewise.spec import Frozen


class DirectPoint(Frozen):
    """An arm trained at one rank and otherwise identical to another, on `valid`."""

    arm: str
    rank: int
    parameters: int | None
    trial: float | None  # at its best rate with the search seed, as for truncations; None: not available yet
    value: float | None  # confirmed, mean over fresh seeds; None: not available yet
    low: float | None  # the lowest and the highest of the seeds
    high: float | None
    num_seeds: int


class RankView(RankCurve):
    """One adapter truncated to every rank, with adapters trained directly."""

    direct: tuple[DirectPoint, ...]  # by rising rank
    words: str  # a summary of the curve and its limits
    spread_arm: str | None  # YAML of an arm with the parameters of the candidate spread; None: nothing to spread


class PlacementPoint(Frozen):
    """An arm of one placement among others that train equally many parameters."""

    arm: str
    targets: str
    rank: int
    parameters: int
    valid: float  # the selection metric on `valid`, mean over seeds
    value: float  # the study's metric, on test
    difference: Estimate | None  # on `test`, from the best one; None: the best one itself
    is_behind: bool  # worse by more than its interval and the possible gain of a finer rate search


class PlacementView(Frozen):
    """Placements at equal parameter budget, and the best one on `valid`."""

    metric: str  # of test
    best: str | None  # the best arm; None: withheld by a fairness rule
    num_seeds: int
    num_units: int  # of test
    confidence: float  # of each interval, so that all hold jointly in 95% of studies (Bonferroni)
    points: tuple[PlacementPoint, ...]  # the best on `valid` first
    words: str


class LowRankView(LowRank):
    """The low-rank analysis with its texts."""

    words: str  # how many directions the change has
    causes: tuple[str, ...]  # a sentence for every arm that was trained at an extracted rank


class CapacityView(Frozen):
    """Results on rank and placement; empty if not requested."""

    ranks: tuple[RankView, ...] = ()
    placements: tuple[PlacementView, ...] = ()
    low_rank: LowRankView | None = None  # None: no adapter was extracted from full fine-tuning
