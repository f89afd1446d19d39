"""Comparison of LoRA arms that train equally many parameters in different modules.

The best arm is chosen on the validation set. The others are compared with the best one on the test set, which has no
part in that choice.
"""

from collections import defaultdict
from collections.abc import Sequence

from tunewise.desk.fairness.finding import Finding, listed
from tunewise.desk.metrics.metrics import metric_named, primary_metric
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.protocol import trials
from tunewise.desk.protocol.search import headroom
from tunewise.desk.report import wording
from tunewise.desk.report.views.capacity_view import PlacementPoint, PlacementView
from tunewise.desk.statistics.harm import harm, mean_of
from tunewise.desk.study.state import StudyState
from tunewise.records import RunRecord
from tunewise.spec.expand import PLACEMENTS, alike
from tunewise.text import numbers

MIN_SEEDS = 2
PLACED = {"targets", "rank", "learning_rate", "rates"}  # what arms of one comparison may differ in
Runs = dict[str, list[RunRecord]]


def placement_views(state: StudyState, findings: Sequence[Finding]) -> tuple[PlacementView, ...]:
    """Every set of two or more such arms, confirmed with the seeds of the first look."""
    groups: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for arm, method in state.study.lora_arms.items():
        is_placed = not method.has_open_rank and method.targets in PLACEMENTS
        tuned = next((run.tuned for run in state.confirmed.get(arm, []) if run.tuned), None)
        if is_placed and tuned:
            groups[method.model_dump_json(exclude=PLACED)][arm] = tuned.trainable_parameters
    found = [_view(state, of_group, findings) for of_group in groups.values() if _is_comparison(state, of_group)]
    return tuple(view for view in found if view)


def _is_comparison(state: StudyState, parameters: dict[str, int]) -> bool:
    targets = {getattr(state.study.arms[arm], "targets", "") for arm in parameters}
    return len(targets) == len(parameters) > 1 and alike(list(parameters.values()))


def _view(state: StudyState, parameters: dict[str, int], findings: Sequence[Finding]) -> PlacementView | None:
    runs = _runs(state, list(parameters))
    if min(len(of_arm) for of_arm in runs.values()) < MIN_SEEDS:
        return None
    chosen_by, metric = primary_metric(state.data.task), primary_metric(state.data.task, state.study.primary)
    valid = {arm: mean_of(chosen_by, state.scores(of_arm, "valid")) for arm, of_arm in runs.items()}
    order = sorted(valid, key=lambda arm: -valid[arm] if metric_named(chosen_by).higher_is_better else valid[arm])
    test = {arm: state.scores(of_arm) for arm, of_arm in runs.items()}
    confidence = 1 - 0.05 / (len(order) - 1)
    points = tuple(_point(state, arm, order[0], test, valid[arm], confidence) for arm in order)
    blocked = tuple(dict.fromkeys(f.id for f in findings if f.severity == "blocks" and _concerns(f, order)))
    view = PlacementView(
        metric=metric,
        best=None if blocked else order[0],
        num_seeds=len(runs[order[0]]),
        num_units=len(set(test[order[0]][0].units)),
        confidence=confidence,
        points=points,
        words="",
    )
    return view.replace(words=_words(view, blocked))


def _runs(state: StudyState, arms: Sequence[str]) -> Runs:
    """The runs of the first look, with the seeds that all arms have."""
    first = state.study.confirmation_seeds()[: state.study.looks[0]]
    of_arm = {arm: {r.spec.seed: r for r in state.confirmed[arm] if r.status == "done"} for arm in arms}
    seeds = [seed for seed in first if all(seed in of_arm[arm] for arm in arms)]
    return {arm: [of_arm[arm][seed] for seed in seeds] for arm in arms}


def _concerns(finding: Finding, arms: Sequence[str]) -> bool:
    return not finding.arms or bool(set(finding.arms) & set(arms))


def _point(  # noqa: PLR0913 - one row of the table
    state: StudyState, arm: str, best: str, test: dict[str, list[Scores]], valid: float, confidence: float
) -> PlacementPoint:
    method, tuned = state.study.lora_arms[arm], state.confirmed[arm][0].tuned
    assert tuned is not None, "it was trained"
    metric = metric_named(primary_metric(state.data.task, state.study.primary))
    found = harm(metric, test[arm], test[best], confidence) if arm != best else None
    return PlacementPoint(
        arm=arm,
        targets=str(method.targets),
        rank=method.top_rank,
        parameters=tuned.trainable_parameters,
        valid=valid,
        value=mean_of(metric.name, test[arm]),
        difference=found.difference if found else None,
        is_behind=found is not None and found.beyond(_finer_rates(state, arm, metric.name)),
    )


def _finer_rates(state: StudyState, arm: str, metric: str) -> float:
    """Possible gain of a rate between those tried; 0 if not estimated or if selection uses another metric."""
    if metric != primary_metric(state.data.task):
        return 0.0
    return headroom(trials.measured_losses(trials.trials(state.records, arm))) or 0.0


def _words(view: PlacementView, blocked: Sequence[str]) -> str:
    first, *others = view.points
    level = f"{100 * view.confidence:.3g}% confidence intervals, which hold jointly in 95% of studies"
    begin = (
        f"With about {numbers.count(first.parameters)} parameters each and a separately tuned rate, "
        f"{first.targets} (rank {first.rank}) is best on the validation set, averaged over {view.num_seeds} seeds. "
    )
    if blocked:
        return f"{begin}The comparison is withheld because of {', '.join(blocked)}."
    sizes = "; ".join(
        f"{p.targets} {wording.sized_estimate(view.metric, p.difference)}" for p in others if p.difference
    )
    behind = [point.targets for point in others if point.is_behind]
    open_ = [point.targets for point in others if not point.is_behind]
    found = f"{listed(behind)} {'is' if len(behind) == 1 else 'are'} worse" if behind else ""
    found += ", and " if behind and open_ else ""
    found += f"{listed(open_)} cannot be distinguished from it" if open_ else ""
    unit = metric_named(view.metric).difference_unit
    return (
        f"{begin}Differences from it on the test set ({view.num_units} units), in {unit}: {sizes}. By {level}, and "
        f"after subtracting what a finer rate search could gain, {found}."
    )
