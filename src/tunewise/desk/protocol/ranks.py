"""Choice of the rank: one high-rank adapter, truncated to all lower ranks and scored on `valid`.

The truncation of a trained adapter is the nearest adapter of lower rank (lab/evaluate/truncate.py). Its score shows how
much of the learned update that rank can represent, not what training at that rank would reach. So the chosen rank is a
candidate: it is trained directly, with its own rate and fresh seeds, and only that arm gets a verdict.
"""

from collections.abc import Callable, Iterable, Sequence

from tunewise.desk.metrics.metrics import metric_named, primary_metric
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.protocol import trials as trials_module
from tunewise.desk.protocol.resolve import twin
from tunewise.desk.statistics.harm import harm, mean_of
from tunewise.desk.statistics.rank_curve import RankCurve, RankPoint
from tunewise.records import DataSummary, RunRecord, TrainableSummary, truncated_split
from tunewise.spec import LoraMethod
from tunewise.spec.resolved import ResolvedStudy

# Of the margin: the most that the candidate may lose to the top rank. With a whole margin, where the top rank equals
# full, the candidate would be a margin worse than full, and no study could call it as good.
RANK_SHARE = 0.5

ReadScores = Callable[[Iterable[RunRecord], str], list[Scores]]


def rank_curves(
    study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord], scores: ReadScores
) -> dict[str, RankCurve]:
    """The curve of every arm with `rank: auto` whose search is over; `records` are the current ones of `study`.

    Raises StudyError if a file of scores is not valid.
    """
    found = {}
    for arm, method in study.lora_arms.items():
        if not method.has_open_rank:
            continue
        trials = trials_module.chosen_trials(records, arm)
        search = trials_module.arm_search(study, data, records, arm)
        if not trials or search is None or not search.is_over:
            continue
        found[arm] = _curve(study, method, trials, reference_runs(study, records), scores)
    return found


def reference_runs(study: ResolvedStudy, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The reference of gain, scored on `valid`: the base, or the trials of the head arm at its best rate."""
    arm = study.reference_arm
    if arm == "base":
        return [r for r in records if r.spec.arm == "base" and r.status == "done"]
    return trials_module.chosen_trials(records, arm)


def _curve(
    study: ResolvedStudy,
    method: LoraMethod,
    trials: Sequence[RunRecord],
    reference: Sequence[RunRecord],
    scores: ReadScores,
) -> RankCurve:
    spec, tuned = trials[0].spec, trials[0].tuned
    assert spec.learning_rate is not None, "a trial has a rate"
    metric = metric_named(primary_metric(spec.task))  # the metric that selects rates and checkpoints
    whole = scores(trials, "valid")
    margin = RANK_SHARE * margin_on_valid(study, metric.name, whole, scores(reference, "valid"))

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
        trained_as=twin(study.arms, spec.arm, method.at(candidate)) or spec.arm,
    )


def margin_on_valid(study: ResolvedStudy, metric: str, whole: Sequence[Scores], reference: Sequence[Scores]) -> float:
    """The declared margin in units of the metric on `valid`; the smaller of its parts.

    A share of the gain is that of `whole` over `reference`.
    """
    margin = trials_module.margin_in(study, metric)
    parts = [] if margin.absolute is None else [margin.absolute]
    if margin.share_of_gain is not None and reference:
        gain = abs(mean_of(metric, reference) - mean_of(metric, whole))
        parts.append(margin.share_of_gain * gain)
    return min(parts) if parts else 0.0


def _parameters(tuned: TrainableSummary | None, top_rank: int, rank: int) -> int | None:
    if tuned is None or tuned.rank_parameters is None:
        return None
    return tuned.trainable_parameters - (top_rank - rank) * tuned.rank_parameters
