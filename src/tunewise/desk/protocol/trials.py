"""Learning-rate trials of every arm, and the chosen rate."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from tunewise.desk.metrics.metrics import judged_metrics, selection_metric
from tunewise.desk.protocol.centres import centre
from tunewise.desk.protocol.search import Search, Tolerance, best_rate, brackets_best, chosen_rate, headroom, search
from tunewise.records import LOST, DataSummary, Evaluation, RunRecord, Status
from tunewise.records.selection import pooled, selection_losses
from tunewise.spec import DEFAULT_MARGINS, Margin, Role
from tunewise.spec.quantities import HEADROOM_SHARE
from tunewise.spec.resolved import ResolvedStudy

TRIALS: tuple[Role, ...] = ("tune", "short")


class Trial(NamedTuple):
    """One learning-rate trial, over the runs that ended; `evaluation` is None if a run was lost or diverged."""

    rate: float
    evaluation: Evaluation | None  # pooled over the search seeds
    status: Status
    num_seeds: int  # of the search, that are done


def selected_evaluation(record: RunRecord) -> Evaluation | None:
    """The validation result of the checkpoint that the run's scores are from."""
    return next((e for e in record.evaluations if e.step == record.selected_step), None)


def arm_search(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord], arm: str) -> Search | None:
    """State of the search of an arm; None if nothing is trained."""
    method = study.trained_arms.get(arm)
    if method is None:
        return None
    whole = {role: [t for t in trials(records, arm, role) if t.num_seeds == study.tuning.seeds] for role in TRIALS}
    full, short = ({trial.rate: trial.evaluation for trial in whole[role]} for role in TRIALS)
    if not fits(records, arm):  # another rate would need as much memory
        return Search(list(full), [], list(short), [])
    if method.rates is not None:  # only these, and a fairness finding reports it
        tried = [rate for rate in method.rates if rate in full]
        return Search(tried, [rate for rate in method.rates if rate not in full], [], [])
    of_arm = tolerance(study, records, arm)
    return search(study.tuning, centre(study, data, method), full, short, selection_losses, of_arm)


def tolerance(study: ResolvedStudy, records: Sequence[RunRecord], arm: str) -> Tolerance | None:
    """What the search neglects: a quarter of the margin, the headroom that a verdict forgives, in the selection loss.

    None with `protocol: fixed`, and if a share of the gain cannot be known.
    """
    if study.protocol == "fixed":
        return None
    margin = margin_in(study, selection_metric(study))
    absolute = math.inf if margin.absolute is None else HEADROOM_SHARE * margin.absolute
    if margin.share_of_gain is None:
        return Tolerance(absolute)
    reference = _reference_loss(study, records) if arm != study.reference_arm else None
    return None if reference is None else Tolerance(absolute, HEADROOM_SHARE * margin.share_of_gain, reference)


def margin_in(study: ResolvedStudy, metric: str) -> Margin:
    """The declared margin if a verdict is about `metric`, else the default one."""
    return study.margin_in(metric) if metric in judged_metrics(study) else DEFAULT_MARGINS[metric]


def _reference_loss(study: ResolvedStudy, records: Sequence[RunRecord]) -> float | None:
    """The selection loss that a gain is counted from: of the base, or of the best trial of the head arm.

    Infinite before these have ended, and minus infinite if the base is lost: the tolerance is largest in the first case
    and 0 in the second, and a smaller one asks for all trials of a larger one, so what is asked for while the base is
    awaited is needed in any case. None if the base of an older version left no such loss.
    """
    if study.reference_arm != "base":
        found = trial_losses(trials(records, study.reference_arm))
        return min((loss for loss in found.values() if loss is not None), default=math.inf)
    base = next((record for record in records if record.spec.arm == "base"), None)
    if base is None:
        return math.inf
    if base.status in LOST:
        return -math.inf
    return base.evaluations[0].selection_loss if base.evaluations else None


def shared_head_rate(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]) -> float | None:
    """The learning rate of new weights in every arm; None if there are none or it is not yet known."""
    if not data.num_new_parameters:
        return None
    return study.train.head_learning_rate or selected_rates(study, records).get(study.reference_arm)


def fits(records: Sequence[RunRecord], arm: str) -> bool:
    """Whether every run of an arm fit in memory; otherwise the arm is excluded."""
    return not any(r.spec.arm == arm and r.status == "out-of-memory" for r in records)


def trials(records: Sequence[RunRecord], arm: str, role: Role = "tune") -> list[Trial]:
    """Finished learning-rate trials of an arm in order of rate: full-length ones, or the `short` ones."""
    by_rate: dict[float, dict[int, RunRecord]] = {}  # rate -> seed -> run
    for record in records:
        spec = record.spec
        if spec.arm == arm and spec.role == role and spec.learning_rate is not None:
            by_rate.setdefault(spec.learning_rate, {})[spec.seed] = record
    return [_trial(rate, [of_seed for _, of_seed in sorted(by_rate[rate].items())]) for rate in sorted(by_rate)]


def _trial(rate: float, runs: Sequence[RunRecord]) -> Trial:
    status: Status = next((run.status for run in runs if run.status != "done"), "done")
    found = [evaluation for run in runs if run.status == "done" and (evaluation := selected_evaluation(run))]
    return Trial(rate, pooled(found) if len(found) == len(runs) else None, status, len(runs))


def seed_losses(records: Sequence[RunRecord], arm: str) -> dict[int, dict[float, float]]:
    """Losses of an arm's finished full-length trials: search seed -> rate -> loss."""
    found: dict[int, dict[float, float]] = {}
    for record in records:
        spec = record.spec
        is_trial = (spec.arm, spec.role, record.status) == (arm, "tune", "done")
        if is_trial and spec.learning_rate is not None and math.isfinite(loss := selection_loss(record)):
            found.setdefault(spec.seed, {})[spec.learning_rate] = loss
    return found


def selection_loss(record: RunRecord) -> float:
    """The loss that selection minimizes, of the selected weights; infinite if nothing was selected."""
    evaluation = selected_evaluation(record)
    return math.inf if evaluation is None else evaluation.selection_loss


def trial_losses(found: Sequence[Trial]) -> dict[float, float | None]:
    """The loss that the search minimizes, by rate; None if the trial diverged or failed."""
    return selection_losses({trial.rate: trial.evaluation for trial in found})


def measured_losses(found: Sequence[Trial]) -> dict[float, float | None]:
    """Like `trial_losses`, without failed trials, which are not informative about their rates."""
    return trial_losses([trial for trial in found if trial.status not in LOST])


def selected_rates(study: ResolvedStudy, records: Sequence[RunRecord]) -> dict[str, float]:
    """The rate to confirm of every arm that has one and fits in memory; it may be one that no trial had."""
    rates = {arm: _selected_rate(study, records, arm) for arm in study.arms if fits(records, arm)}
    return {arm: rate for arm, rate in rates.items() if rate is not None}


def _selected_rate(study: ResolvedStudy, records: Sequence[RunRecord], arm: str) -> float | None:
    losses, method = trial_losses(trials(records, arm)), study.trained_arms.get(arm)
    by_hand = method is not None and method.rates is not None  # none but these
    if not losses:
        return None
    return chosen_rate(losses, None if by_hand else tolerance(study, records, arm))


def headroom_left(study: ResolvedStudy, records: Sequence[RunRecord], arm: str) -> float | None:
    """What another rate may gain over the selected one, in the selection loss; None: not estimated.

    0 where the lowest point of the curve is confirmed.
    """
    measured = measured_losses(trials(records, arm))
    selected = _selected_rate(study, records, arm)
    return 0.0 if selected is not None and selected not in measured else headroom(measured)


def chosen_trials(records: Sequence[RunRecord], arm: str) -> list[RunRecord]:
    """Full-length trials of an arm at the best rate tried, one per search seed; empty without a rate."""
    rate = best_rate(trial_losses(trials(records, arm))) if fits(records, arm) else None
    return [r for r in records if rate and (r.spec.arm, r.spec.role, r.spec.learning_rate) == (arm, "tune", rate)]


def is_bracketed(study: ResolvedStudy, records: Sequence[RunRecord], arm: str) -> bool:
    """Whether worse (or diverged) rates were tried on both sides of the chosen one, or nothing is trained.

    A failed trial does not count as worse, because its result is not known.
    """
    return not study.arms[arm].is_trained or brackets_best(measured_losses(trials(records, arm)))
