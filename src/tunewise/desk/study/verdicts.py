"""The verdicts that a study allows today, and the arms that are still inconclusive."""

import math
from dataclasses import replace

from tunewise.desk.analysis.failures import failing_share_bound, far_runs
from tunewise.desk.fairness import Case, Finding, check, hold_back, listed
from tunewise.desk.judge.contrasts import TaskRuns
from tunewise.desk.metrics.metrics import compute, judged_metrics, measured_metric, selection_metric
from tunewise.desk.protocol import trials
from tunewise.desk.statistics.comparison import ArmScores, Comparison
from tunewise.desk.statistics.look import Look
from tunewise.desk.statistics.multiplicity import decide_together
from tunewise.desk.statistics.paired import require_same_rows
from tunewise.desk.statistics.verdict import RateSearch, Verdict, margin_in_units
from tunewise.desk.study.looks import read_looks
from tunewise.desk.study.state import StudyState
from tunewise.records import LOST_SEED
from tunewise.spec import TASKS
from tunewise.spec.resolved import ResolvedStudy


def going_on(state: StudyState) -> tuple[tuple[str, ...], ...]:
    """The arms that go on after each interim look that is complete; the last is empty or missing if none does."""
    return read_looks(state, words_at).going


def words_at(state: StudyState, look: Look) -> tuple[Verdict, ...]:
    """The verdicts at a complete look, as far as the fairness rules allow; empty if there are none.

    The error of the look is that of all studies that the test set is declared for; each gets its share.
    """
    if why_no_verdict(state):
        return ()
    look = replace(look, error=look.error / state.study.studies_per_test_set)
    findings = findings_of(state)
    return tuple(hold_back(verdict, findings) for verdict in _verdicts(state, look))


def _with_lost_runs(verdict: Verdict, state: StudyState) -> Verdict:
    """The verdict with the runs that diverged, failed or ended far away, and the seeds that were left out."""
    runs = {arm: state.confirmed[arm] for arm in (verdict.arm, verdict.against)}
    diverged = {arm: number for arm, of in runs.items() if (number := sum(run.status == "diverged" for run in of))}
    metric, margin = verdict.metric, margin_in_units(verdict)
    far = {
        arm: tuple(of[place].spec.seed for place in places)
        for arm, of in runs.items()
        if (places := far_runs([compute(metric, scores) for scores in state.scores(of)], margin))
    }
    own = runs[verdict.arm]
    failed = sum(run.status == "diverged" or run.spec.seed in far.get(verdict.arm, ()) for run in own)
    lost = {r.spec.seed for r in state.records if r.spec.role == "confirm" and r.status in LOST_SEED}
    return verdict.replace(
        diverged_runs=diverged,
        far_runs=far,
        num_failed=failed,
        failing_share_bound=failing_share_bound(failed, len(own)),
        dropped_seeds=tuple(sorted(lost)),
    )


def findings_of(state: StudyState) -> tuple[Finding, ...]:
    """Findings of the fairness rules, and a note on what the budget reduced."""
    found = check(case_of(state))
    if state.budget is None:
        return found
    evidence = f"budget: {state.study.budget}"
    return (*found, Finding(id="budget", severity="note", sentence=state.budget, evidence=evidence))


def case_of(state: StudyState) -> Case:
    """The input of the fairness rules."""
    curve = state.selection_curve(state.full) if state.full else ()
    return Case(state.study, state.data, state.records, state.stale, _reference_loss(state), curve)


def why_no_verdict(state: StudyState) -> str | None:
    """A sentence on why a complete look has no verdict; None: it has one."""
    if state.full is None:
        return "No verdict: this study has no full fine-tuning arm to compare with. Add one (`method: full`)."
    if len(state.study.arms) == 1:
        return "No verdict: full fine-tuning is the only arm. Add an arm to compare with full fine-tuning."
    if not trials.fits(state.records, state.full):
        return (
            f"No verdict: {state.full} ran out of memory on this machine, so no arm can be compared with full "
            "fine-tuning."
        )
    candidates = state.study.compared_arms
    if not any(trials.fits(state.records, arm) for arm in candidates):
        return f"No verdict for {listed(candidates)}: out of memory on this machine."
    if state.base is None or not state.confirmed.get(state.full) or len(state.confirmed) < 2:
        return "No verdict: too few runs finished to compare any arm with full fine-tuning."
    return None


def _reference_loss(state: StudyState) -> float | None:
    """Loss on `valid` that selection minimizes, of the reference of gain: the base, or the head arm's mean."""
    heads = state.confirmed.get(state.study.reference_arm, [])
    losses = [loss for run in heads if math.isfinite(loss := trials.selection_loss(run))]
    if losses:
        return sum(losses) / len(losses)
    if state.base is None or TASKS[state.data.task].has_classes:
        return None
    if state.study.select_by:
        return state.base.evaluations[0].selection_loss if state.base.evaluations else None
    return compute("nll", state.scores([state.base], "valid")[0])


def _verdicts(state: StudyState, look: Look) -> tuple[Verdict, ...]:
    study, full, metrics = state.study, state.full, judged_metrics(state.study)
    # The reference of gain is not a candidate, so it takes no share of the error.
    candidates = [arm for arm in study.compared_arms if arm in state.confirmed]
    others = [arm for arm in state.confirmed if arm not in (full, *candidates)]
    ended = [arm for arm in study.compared_arms if arm in look.left and arm not in candidates]
    left = [outcome for arm in ended for outcome in look.left[arm]]
    found: dict[str, Verdict] = {}
    for family, gone in ((candidates, left), *(([arm], []) for arm in others)):
        asked = [comparison(state, arm, metric, look) for arm in family for metric in metrics]
        verdicts = [_with_lost_runs(verdict, state) for verdict in decide_together(asked, look.error, gone)]
        for verdict in reversed(verdicts):  # that of the primary metric last
            found[verdict.arm] = verdict.replace(secondary=found.get(verdict.arm))
    return tuple(found[arm] for arm in state.confirmed if arm != full)


def comparison(state: StudyState, arm: str, metric: str, look: Look) -> Comparison:
    """The arm compared with full in a metric; a look is complete, and `why_no_verdict` has no reason."""
    study, full = state.study, state.full
    assert full is not None, "checked by why_no_verdict"
    assert state.base is not None, "checked by why_no_verdict"
    runs = ArmScores(
        arm=tuple(state.scores(state.confirmed[arm])),
        full=tuple(state.scores(state.confirmed[full])),
        base=tuple(state.scores(state.confirmed.get(study.reference_arm) or [state.base])),
        against=full,
    )
    if are_seeds_apart(study, arm):
        require_same_rows({arm: runs.arm, full: runs.full})
        measured = measured_metric(metric, runs.full[0])
        apart = TaskRuns(measured, runs.arm, runs.full, "apart", runs.base, look.most_freedom)
        runs = replace(runs, contrasts=apart)
    edges = tuple(name for name in (arm, full) if not trials.is_bracketed(study, state.records, name))
    search = RateSearch(edges, _headroom(state, arm, metric), _headroom(state, full, metric))
    return Comparison(arm, runs, metric, study.margin_in(metric), search, look)


def are_seeds_apart(study: ResolvedStudy, arm: str) -> bool:
    """Whether runs of the arm were trained elsewhere, so that their seeds have nothing in common with those of full."""
    method = study.arms[arm]
    return method.has_seeds and not method.is_trained


def _headroom(state: StudyState, arm: str, metric: str) -> float | None:
    """Possible gain of a rate between those tried, in units of the metric.

    None if selection minimizes another metric, so that the trials did not measure this one.
    """
    if metric != selection_metric(state.study):
        return None
    return trials.headroom_left(state.study, state.records, arm)
