"""Views of the arms: method, quality, cost and training curves."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from tunewise.desk.analysis.costs import Cost, cost_of, ratios
from tunewise.desk.analysis.forgetting import mean_curve
from tunewise.desk.analysis.rate_ratio import rate_ratio
from tunewise.desk.metrics.metrics import METRICS, compute, metrics_of
from tunewise.desk.planning.estimates import training_seconds
from tunewise.desk.protocol import schedule, trials
from tunewise.desk.protocol.search import bracket
from tunewise.desk.report.compose.evidence import Evidence
from tunewise.desk.report.views.view import ArmView, LearningCurve, PlannedView, RatePoint, TrainPoint, ValidPoint
from tunewise.desk.statistics.intervals import Estimate, unit_interval
from tunewise.desk.statistics.paired import MetricSummary, PairedRuns, mean_interval
from tunewise.desk.study.state import StudyState
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import BASES, TASKS, BaseMethod, Method

MAX_TRAIN_POINTS = 60  # a curve a few hundred pixels wide shows no more


def arm_views(evidence: Evidence) -> tuple[ArmView, ...]:
    """The base first, whole and as arms store it, then full, then the others in the order of the study."""
    state = evidence.state
    ordered = sorted(state.study.arms, key=lambda name: name != state.full)
    bases = [
        (BASES[kind], BaseMethod(base=kind), [state.bases[kind]] if kind in state.bases else [])
        for kind in state.study.bases
    ]
    tuned = [(name, state.study.arms[name], state.confirmed.get(name, [])) for name in ordered]
    return tuple(_arm(evidence, name, method, runs) for name, method, runs in [*bases, *tuned])


def _arm(evidence: Evidence, name: str, method: Method, runs: Sequence[RunRecord]) -> ArmView:
    state = evidence.state
    tuned = runs[0].tuned if runs else None
    cost, price = arm_cost(evidence, name), state.study.machine.price
    trained = [run for run in runs if run.spec.learning_rate is not None]
    losses = trials.measured_losses(trials.trials(state.records, name))
    return ArmView(
        name=name,
        method=method.in_words(),
        fits_in_memory=trials.fits(state.records, name),
        learning_rate=trials.selected_rates(state.study, state.records).get(name),
        bracket=bracket(losses),
        headroom=trials.headroom_left(state.study, state.records, name),
        rate_ratio=_rate_ratio(state, name),
        **dict(cost),
        train_cost=price.cost(cost.train_seconds) if price else None,
        total_parameters=tuned.total_parameters if tuned else None,
        trainable_percent=100 * tuned.trainable_parameters / tuned.total_parameters if tuned else None,
        parameters_per_target=tuned.trainable_parameters / _num_targets(state.data) if tuned else None,
        scale=tuned.scale if tuned else None,
        linear_share=tuned.linear_share if tuned else None,
        planned=_planned(evidence, name),
        ratio_to_full=ratios(cost, arm_cost(evidence, state.full) if state.full else None),
        metrics=_metrics(state, method, runs),
        forgetting=_forgetting(state, method, runs),
        forgetting_at_equal_quality=evidence.equal_quality.get(name),
        forgetting_curve=mean_curve(state.curves.get(name, [])),
        to_quality=evidence.to_quality.get(name),
        num_steps=trained[0].num_steps if trained else None,
        selected_steps=tuple(run.selected_step for run in trained),
        learning_rate_curve=_rate_curve(state, name),
        learning_curves=tuple(_learning_curve(state, run) for run in trained) or tuple(_curves_left(state, name, runs)),
    )


def arm_cost(evidence: Evidence, arm: str) -> Cost:
    """Cost of the confirmed runs of an arm; the base has none."""
    every, comparable = evidence.state.confirmed.get(arm, []), evidence.comparable.get(arm, [])
    reached = evidence.to_quality.get(arm) if len(comparable) == len(every) else None
    return cost_of(evidence.timed(every), evidence.timed(comparable), reached.seconds if reached else None)


def _planned(evidence: Evidence, arm: str) -> PlannedView | None:
    state, plan = evidence.state, evidence.plan
    if plan is None or arm not in plan.arms or arm in state.rank_curves:
        return None
    of_arm = plan.arms[arm]
    speed = of_arm.speed
    return PlannedView(
        step_bytes=of_arm.step.total if of_arm.step else None,
        above_start_bytes=speed.peak_above_start_bytes if speed else None,
        train_seconds=training_seconds(state.study, plan, arm),
    )


def _rate_ratio(state: StudyState, arm: str) -> Estimate | None:
    if state.full is None or arm == state.full or arm in BASES.values():
        return None
    of_arm, of_full = (trials.seed_losses(state.records, name) for name in (arm, state.full))
    return rate_ratio(of_arm, of_full)


def _num_targets(data: DataSummary) -> int:
    """Number of training targets: supervised tokens of train, for a classification its rows."""
    train = data.split("train")
    return train.rows if TASKS[data.task].has_classes else train.supervised_tokens


def _metrics(state: StudyState, method: Method, runs: Sequence[RunRecord]) -> dict[str, MetricSummary]:
    names = metrics_of(state.data.task, [metric.name for metric in state.study.metrics])
    if not runs:
        return {}
    if method.has_seeds:
        scores = state.scores(runs)
        return {name: mean_interval(name, scores) for name in names}
    scores = state.scores(runs[:1])
    return {name: mean_interval(name, scores, seeds="fixed") for name in names}


def _forgetting(state: StudyState, method: Method, runs: Sequence[RunRecord]) -> Estimate | None:
    """Change of the mean NLL on general text from the base; positive means forgotten."""
    measured = [run for run in runs if run.spec.inputs.general]
    if state.base is None or not measured or runs[0] is state.base:
        return None
    scores = state.scores(measured if method.has_seeds else measured[:1], "general")
    base = state.scores([state.base], "general")
    change = PairedRuns(METRICS["nll"], {"arm": scores, "base": base}).contrast({"arm": 1, "base": -1})
    interval = change.interval() if method.has_seeds else unit_interval(change.values_SN)
    return Estimate(estimate=change.estimate, low=interval.low, high=interval.high)


def _rate_curve(state: StudyState, arm: str) -> tuple[RatePoint, ...]:
    chosen = trials.selected_rates(state.study, state.records).get(arm)
    return tuple(
        RatePoint(
            learning_rate=trial.rate,
            valid_nll=trial.evaluation.nll if trial.evaluation else None,
            valid_accuracy=trial.evaluation.accuracy if trial.evaluation else None,
            forgetting=_forgetting_at(state, arm, trial),
            selected=trial.rate == chosen,
        )
        for trial in trials.trials(state.records, arm)
    )


def _forgetting_at(state: StudyState, arm: str, trial: trials.Trial) -> float | None:
    """Change of the mean NLL on general text after a trial, averaged over its search seeds."""
    runs = [
        r
        for r in state.records
        if (r.spec.arm, r.spec.role, r.spec.learning_rate) == (arm, "tune", trial.rate) and r.spec.inputs.general
    ]
    if state.base is None or trial.evaluation is None or not runs:
        return None
    (before,), after = state.scores([state.base], "general"), state.scores(runs, "general")
    return statistics.mean(compute("nll", scores) for scores in after) - compute("nll", before)


def _learning_curve(state: StudyState, run: RunRecord) -> LearningCurve:
    planned = schedule.num_steps(state.study, state.data)
    return LearningCurve(
        seed=run.spec.seed,
        train=thinned(state.files.steps(run), planned),
        valid=tuple(ValidPoint(step=e.step, nll=e.nll, accuracy=e.accuracy) for e in run.evaluations),
        selected_step=run.selected_step,
    )


def _curves_left(state: StudyState, arm: str, runs: Sequence[RunRecord]) -> Iterator[LearningCurve]:
    """The training losses that trainers elsewhere left, of the runs that were scored."""
    left, seeds = state.data.left.get(arm, ()), state.study.confirmation_seeds()
    for run in {run.run_id: run for run in runs}.values() if left else ():
        if points := left[seeds.index(run.spec.seed)].losses:
            train = tuple(TrainPoint(step=step, nll=loss) for step, loss in points)
            yield LearningCurve(seed=run.spec.seed, train=train, valid=(), selected_step=None)


def thinned(steps: Sequence[Mapping[str, float]], num_steps: int) -> tuple[TrainPoint, ...]:
    """At most MAX_TRAIN_POINTS points: losses of neighboring steps, summed and divided by their targets.

    Groups are the same in every run of `num_steps`; steps with a loss that is not finite (a diverged run) are left out.
    """
    width = math.ceil(num_steps / MAX_TRAIN_POINTS)
    groups: dict[int, list[Mapping[str, float]]] = {}
    for step in steps:
        if math.isfinite(step["loss"]):
            groups.setdefault((int(step["step"]) - 1) // width, []).append(step)

    def mean_loss(group: Sequence[Mapping[str, float]]) -> float:
        return sum(s["loss"] * s["num_targets"] for s in group) / sum(s["num_targets"] for s in group)

    return tuple(
        TrainPoint(step=min((index + 1) * width, num_steps), nll=mean_loss(group)) for index, group in groups.items()
    )
