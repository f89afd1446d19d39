"""Quality by rank: the points of one curve."""

from tunewise.desk.statistics.intervals import Estimate
from tunewise.spec import Frozen


class RankPoint(Frozen):
    """An adapter of the highest rank, truncated to another one."""

    rank: int
    spread: bool  # True: the parameters of `rank`, spread over the modules by energy
    parameters: int | None  # trainable, at this rank; None: not recorded
    value: float  # of the metric on `valid`, mean over the search's seeds
    difference: Estimate | None  # from the untruncated adapter, not adjusted for many ranks; None: that one itself
    within: bool  # the quality loss, including its interval, is below half of the margin
    rank_pattern: dict[str, int] | None  # where spread: module -> rank, as peft takes it; of the first search seed


class RankCurve(Frozen):
    """Quality by rank on `valid`, from the trial at the best rate of the highest rank."""

    arm: str
    metric: str
    top_rank: int
    learning_rate: float
    margin: float  # half of the declared one, in units of the metric; of a share, the untruncated adapter's gain counts
    num_seeds: int  # of the search; with one seed, intervals are over units only
    num_units: int
    points: tuple[RankPoint, ...]  # by rising rank, even ones before spread ones; the untruncated last
    candidate: int  # the smallest even rank that is within this margin
    trained_as: str  # the arm of the candidate: this one, or another that the study has at that rank already

    @property
    def whole(self) -> float:
        """The metric of the untruncated adapter."""
        return self.points[-1].value
