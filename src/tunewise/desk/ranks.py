"""Which rank: one adapter of high rank, truncated to all lower ones and scored on valid.

The truncation of a trained adapter is the nearest adapter of lower rank (lab/evaluate/truncate.py). Its score says what
that rank can hold of what was learned, not what training at that rank would reach, so the rank chosen here is a
candidate: it is trained by itself, at a rate of its own and with fresh seeds, and that run alone gets a word.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tunewise.desk import schedule
from tunewise.desk.intervals import ROUNDING, Estimate, unit_interval
from tunewise.desk.metric import Metric
from tunewise.desk.metrics import METRICS, Scores, compute, primary_metric
from tunewise.desk.paired import PairedRuns
from tunewise.records import DataSummary, RunRecord, Tuned, truncated_split
from tunewise.spec import DEFAULT_MARGINS, Frozen, LoraMethod, StudySpec

ReadScores = Callable[[Iterable[RunRecord], str], list[Scores]]


class RankPoint(Frozen):
    """An adapter of the highest rank, truncated to another one."""

    rank: int
    spread: bool  # True: the parameters of `rank`, spread over the modules by energy
    parameters: int | None  # that learn, at this rank; None: not recorded
    value: float  # of the metric on valid, mean over the search's seeds
    difference: Estimate | None  # from the untruncated adapter, not adjusted for many ranks; None: that one itself
    within: bool  # the harm is below the margin, its interval included
    rank_pattern: dict[str, int] | None  # where spread: module -> rank, as peft takes it; of the first search seed


class RankCurve(Frozen):
    """Rank against quality on valid, from the trial at the best rate of the highest rank."""

    arm: str
    metric: str
    top_rank: int
    learning_rate: float
    margin: float  # in units of the metric; a share of the gain is that of the untruncated adapter over the base
    num_seeds: int  # of the search; with one, intervals are over units alone
    num_units: int
    points: tuple[RankPoint, ...]  # by rising rank, even ones before spread ones; the untruncated last
    candidate: int  # the smallest even rank that is within the margin
    trained_as: str  # the arm of the candidate: this one, or another that the study has at that rank already

    @property
    def whole(self) -> float:
        """The metric of the untruncated adapter."""
        return self.points[-1].value


def rank_curves(
    study: StudySpec, data: DataSummary, records: Sequence[RunRecord], scores: ReadScores
) -> dict[str, RankCurve]:
    """The curve of every arm with `rank: auto` whose search is over; `records` are the current ones of `study`.

    Raises StudyError where a file of scores cannot be trusted.
    """
    found = {}
    for arm, method in study.lora_arms.items():
        if not method.has_open_rank:
            continue
        trials = schedule.chosen_trials(study, records, arm)
        search = schedule.arm_search(study, data, records, arm)
        if not trials or search is None or not search.is_over:
            continue
        found[arm] = _curve(study, method, trials, _reference(study, records), scores)
    return found


def _reference(study: StudySpec, records: Sequence[RunRecord]) -> list[RunRecord]:
    """What gain is measured over, as scored on valid: the base, or the trials of the head arm at its best rate."""
    arm = study.reference_arm
    if arm == "base":
        return [r for r in records if r.spec.role == "base" and r.status == "done"]
    return schedule.chosen_trials(study, records, arm)


def _curve(
    study: StudySpec,
    method: LoraMethod,
    trials: Sequence[RunRecord],
    reference: Sequence[RunRecord],
    scores: ReadScores,
) -> RankCurve:
    spec, tuned = trials[0].spec, trials[0].tuned
    assert spec.learning_rate is not None, "a trial has a rate"
    metric = METRICS[primary_metric(spec.task)]  # what rates and checkpoints are selected by
    whole = scores(trials, "valid")
    margin = margin_on_valid(study, metric.name, whole, scores(reference, "valid"))

    def point(rank: int, spread: bool, cut: Sequence[Scores]) -> RankPoint:
        found = harm(metric, cut, whole) if cut is not whole else None
        return RankPoint(
            rank=rank,
            spread=spread,
            parameters=_parameters(tuned, method.top_rank, rank),
            value=mean_of(metric.name, cut),
            difference=found.difference if found else None,
            within=found is None or found.within(margin),
            rank_pattern=trials[0].rank_patterns.get(rank) if spread else None,
        )

    points = [
        point(rank, spread, scores(trials, truncated_split("valid", rank, spread)))
        for spread in (False, True)
        for rank in spec.ranks
    ]
    points.append(point(method.top_rank, False, whole))
    candidate = min(point.rank for point in points if point.within and not point.spread)
    return RankCurve(
        arm=spec.arm,
        metric=metric.name,
        top_rank=method.top_rank,
        learning_rate=spec.learning_rate,
        margin=margin,
        num_seeds=len(trials),
        num_units=len(set(whole[0].units)),
        points=tuple(points),
        candidate=candidate,
        trained_as=schedule.twin(study.arms, spec.arm, candidate) or spec.arm,
    )


class Harm(NamedTuple):
    """How much worse one of two arms is on valid, in units of the metric."""

    difference: Estimate  # of the metric, with its interval; over units alone where there is one seed
    least: float | None  # ends of the interval of the harm, which is positive; None: no interval
    most: float | None
    is_equal: bool  # to rounding, in every unit

    def within(self, margin: float) -> bool:
        """The harm is below the margin, its interval included."""
        return self.is_equal or (self.most is not None and self.most < margin)

    def beyond(self, margin: float) -> bool:
        """The harm is above the margin, its interval included."""
        return self.least is not None and self.least > margin


def harm(metric: Metric, worse: Sequence[Scores], than: Sequence[Scores], confidence: float = 0.95) -> Harm:
    """What `worse` loses against `than`, run by run on the same rows."""
    contrast = PairedRuns(metric, {"worse": worse, "than": than}).contrast({"worse": 1, "than": -1})
    is_one_seed = len(worse) == 1
    interval = unit_interval(contrast.values_SN, confidence) if is_one_seed else contrast.interval(confidence)
    is_equal = bool(abs(contrast.values_SN).max() < ROUNDING)
    difference = Estimate(estimate=contrast.estimate, low=interval.low, high=interval.high)
    ends = (interval.high, interval.low) if metric.higher_is_better else (interval.low, interval.high)
    least, most = (None if end is None else -end if metric.higher_is_better else end for end in ends)
    return Harm(difference, least, most, is_equal)


def margin_on_valid(study: StudySpec, metric: str, whole: Sequence[Scores], reference: Sequence[Scores]) -> float:
    """The declared margin in units of the metric on valid; of its parts the smaller.

    A share of the gain is that of `whole` over `reference`.
    """
    assert study.task is not None, "resolved"
    is_about = primary_metric(study.task, study.primary) == metric
    margin = study.margin_in(metric) if is_about else DEFAULT_MARGINS[metric]
    parts = [] if margin.absolute is None else [margin.absolute]
    if margin.share_of_gain is not None and reference:
        gain = abs(mean_of(metric, reference) - mean_of(metric, whole))
        parts.append(margin.share_of_gain * gain)
    return min(parts) if parts else 0.0


def _parameters(tuned: Tuned | None, top_rank: int, rank: int) -> int | None:
    if tuned is None or tuned.rank_parameters is None:
        return None
    return tuned.trainable_parameters - (top_rank - rank) * tuned.rank_parameters


def mean_of(metric: str, runs: Sequence[Scores]) -> float:
    """The metric, mean over runs."""
    return sum(compute(metric, run) for run in runs) / len(runs)
