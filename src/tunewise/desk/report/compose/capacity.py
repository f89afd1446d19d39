"""Rank curves of a study, with the arms that were trained at their ranks."""

from collections.abc import Sequence

import yaml

from tunewise.desk.fairness.finding import Finding
from tunewise.desk.metrics.metrics import compute, metric_named
from tunewise.desk.protocol import trials as trials_module
from tunewise.desk.report.compose.low_rank import low_rank
from tunewise.desk.report.compose.placements import placement_views
from tunewise.desk.report.views.capacity_view import CapacityView, DirectPoint, RankView
from tunewise.desk.statistics.rank_curve import RankCurve
from tunewise.desk.study.state import StudyState
from tunewise.spec import LoraMethod
from tunewise.text import numbers

SEARCHED = {"rank", "max_rank", "learning_rate", "rates"}  # what arms of one curve may differ in


def capacity(state: StudyState, findings: Sequence[Finding], is_complete: bool) -> CapacityView:
    """Rank curves with directly trained arms, placements, and the low-rank analysis of full fine-tuning.

    Raises StudyError for scores that are damaged.
    """
    ranks = tuple(_rank_view(state, curve) for curve in state.rank_curves.values())
    placements = placement_views(state, findings) if is_complete else ()
    return CapacityView(ranks=ranks, placements=placements, low_rank=low_rank(state))


def _rank_view(state: StudyState, curve: RankCurve) -> RankView:
    loras = state.study.lora_arms
    searched = loras[curve.trained_as]
    alike = {arm: method for arm, method in loras.items() if _fixed(method) == _fixed(searched)}
    direct = [_direct(state, arm, method, curve.metric) for arm, method in alike.items()]
    ordered = tuple(sorted(direct, key=lambda point: (point.rank, point.arm)))
    return RankView(**dict(curve), direct=ordered, words=_words(curve), spread_arm=_spread_arm(curve, searched))


def _fixed(method: LoraMethod) -> dict[str, object]:
    return method.model_dump(exclude=SEARCHED)


def _spread_arm(curve: RankCurve, method: LoraMethod) -> str | None:
    """YAML of an arm that trains the spread ranks, in peft's own options."""
    spread = next((point for point in curve.points if point.spread and point.rank == curve.candidate), None)
    if spread is None or spread.rank_pattern is None:
        return None
    options = {
        "r": spread.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "use_rslora": method.variant == "rslora",
        "target_modules": method.targets if isinstance(method.targets, str) else list(method.targets),
        "rank_pattern": spread.rank_pattern,
    }
    arm = {f"{curve.arm}-spread": {"method": "peft", "type": "LORA", "options": options}}
    return yaml.safe_dump(arm, sort_keys=False, width=100)


def _direct(state: StudyState, arm: str, method: LoraMethod, metric: str) -> DirectPoint:
    runs = state.confirmed.get(arm, [])
    by_seed = [compute(metric, scores) for scores in state.scores(runs, "valid")]
    trials = trials_module.chosen_trials(state.records, arm)
    at_search = [compute(metric, scores) for scores in state.scores(trials, "valid")]
    tuned = next((run.tuned for run in (*runs, *trials) if run.tuned), None)
    return DirectPoint(
        arm=arm,
        rank=method.top_rank,
        parameters=tuned.trainable_parameters if tuned else None,
        trial=sum(at_search) / len(at_search) if at_search else None,
        value=sum(by_seed) / len(by_seed) if by_seed else None,
        low=min(by_seed, default=None),
        high=max(by_seed, default=None),
        num_seeds=len(runs),
    )


def _words(curve: RankCurve) -> str:
    margin = f"{curve.margin * metric_named(curve.metric).scale:.3g} {metric_named(curve.metric).difference_unit}"
    seeds = "one seed" if curve.num_seeds == 1 else f"{curve.num_seeds} seeds"
    begin = (
        f"The rank-{curve.top_rank} adapter of {curve.arm} was trained at rate "
        f"{numbers.rate(curve.learning_rate)} with {seeds} of the search. "
        "It was then truncated to every lower rank and scored on the "
        f"validation set ({curve.num_units} units). "
    )
    if curve.candidate == curve.top_rank:
        found = (
            f"No lower rank stays within half of the margin ({margin}, interval included), so rank {curve.top_rank} is "
            "kept. "
        )
    else:
        as_arm = "It was then" if curve.trained_as == curve.arm else f"As {curve.trained_as} it is"
        found = (
            f"Rank {curve.candidate} is the lowest that stays within half of the margin ({margin}, interval included). "
            f"{as_arm} trained directly, and the verdict is about that arm. "
        )
    return (
        f"{begin}{found}The intervals are not adjusted for the number of ranks. A truncated adapter does not show what "
        "training at its rank would reach; for that, see the directly trained ranks."
    )
