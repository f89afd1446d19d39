"""Build the report on the mean of several datasets from the folders of its sets."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from tunewise.desk.fairness.finding import listed
from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import wording
from tunewise.desk.report.compose.build import build_report, outcomes_stated
from tunewise.desk.report.sentences import HEADS
from tunewise.desk.report.views.sets_view import MeanVerdictView, SetsReport, SetView
from tunewise.desk.report.views.view import Report
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.mean_of_sets import MIN_NEW_SETS
from tunewise.desk.study.declarations import declarations
from tunewise.desk.study.looks import Reading, read_looks
from tunewise.desk.study.sets import MeanVerdict, mean_verdicts
from tunewise.desk.study.state import StudyState
from tunewise.desk.study.verdicts import words_at
from tunewise.spec import StudySpec, canonical_json
from tunewise.storage.ledger import Ledger
from tunewise.text.numbers import short_path

SETS_FOLDER = "sets"


def ledger_of(ledger: Ledger, name: str) -> Ledger:
    """The study folder of one set."""
    return Ledger(ledger.folder / SETS_FOLDER / name)


def build_sets_report(ledger: Ledger) -> SetsReport:
    """The report on all sets, complete or not. Raises StudyError if a set has no prepared data, or is damaged."""
    study = ledger.study()
    reports = {name: build_report(ledger_of(ledger, name)) for name in study.sets}
    readings = {name: read_looks(StudyState.read(ledger_of(ledger, name)), words_at) for name in study.sets}
    changed = _changed(ledger.declared() or {}, readings, reports)
    is_complete = all(of.is_complete for of in readings.values())
    has_verdicts = is_complete and all(of.verdicts for of in readings.values())
    verdicts = mean_verdicts(readings) if has_verdicts else ()
    if changed:
        verdicts = tuple(of.replace(outcome="undecided", reason="declarations changed") for of in verdicts)
    return SetsReport(
        tunewise_version=version("tunewise"),
        name=study.name,
        question=_question(study),
        headline=_headline(verdicts, readings, changed),
        declarations_changed=changed,
        is_complete=is_complete,
        sets=tuple(
            SetView(name=name, folder=f"{SETS_FOLDER}/{name}", headline=of.headline) for name, of in reports.items()
        ),
        verdicts=tuple(MeanVerdictView(**dict(of), sentence=mean_sentence(of)) for of in verdicts),
    )


def declared_sets(states: Mapping[str, StudyState]) -> dict[str, str]:
    """Set -> its declarations as text, to store before the first run."""
    return {name: canonical_json(declarations(state.study, state.data)) for name, state in states.items()}


def _changed(
    declared: Mapping[str, str], readings: Mapping[str, Reading], reports: Mapping[str, Report]
) -> tuple[str, ...]:
    """Sets that were added, left out or changed after an arm was scored on a test set."""
    scored = [r for of in readings.values() for r in of.state.records if r.spec.role == "confirm"]
    if not scored:
        return ()
    now = declared_sets({name: of.state for name, of in readings.items()})
    differing = {name for name in {**now, **declared} if now.get(name) != declared.get(name)}
    return tuple(sorted(differing | {name for name, of in reports.items() if of.declarations_changed}))


def _question(study: StudySpec) -> str:
    verb = "Is" if len(study.compared_arms) == 1 else "Are"
    return (
        f"{verb} {listed(list(study.compared_arms))} as good as full fine-tuning of {short_path(study.model)} on the "
        f"mean of {len(study.sets)} datasets ({listed(list(study.sets))})?"
    )


def _headline(verdicts: Sequence[MeanVerdict], readings: Mapping[str, Reading], changed: Sequence[str]) -> str:
    if changed:
        return f"Exploratory, no verdict: {listed(list(changed))} changed after the first test score."
    waiting = [name for name, of in readings.items() if not of.is_complete]
    if waiting:
        return f"No verdict yet: runs of {listed(waiting)} are missing. Run the same command again to continue."
    if not verdicts:
        return "No verdict: not every dataset has a verdict. Its own report says why."
    primary = [of for of in verdicts if of.metric == verdicts[0].metric]
    scope = "New datasets of this kind" if verdicts[0].is_of_new_sets else f"These {len(readings)} datasets"
    blocked = {of.arm: listed(list(of.blocked_by)) for of in primary if of.blocked_by}
    withheld = [f"Verdict withheld for {arm}: see {sets}" for arm, sets in blocked.items()]
    stated = outcomes_stated({of.arm: of.outcome for of in primary if not of.blocked_by})
    return f"{scope}: {'. '.join([*stated, *withheld])}."


def mean_sentence(verdict: MeanVerdict) -> str:
    """The verdict on the mean in sentences: answer, size, meaning, scope, and sets that differ."""
    number = len(verdict.by_set)
    if verdict.blocked_by or verdict.reason == "declarations changed":
        why = "; ".join(f"{name} ({', '.join(rules)})" for name, rules in verdict.blocked_by.items())
        cause = f"the cause is in {why}" if why else "the declarations were changed"
        return f"Verdict on {verdict.arm} withheld ({metric_named(verdict.metric).label}): {cause}."
    found = Estimate(estimate=verdict.difference, low=verdict.low, high=verdict.high)
    size = wording.sized_estimate(verdict.metric, found).replace("(", f"({verdict.confidence * 100:.4g}% CI ", 1)
    scope = (
        "The interval is for new datasets of this kind."
        if verdict.is_of_new_sets
        else f"The interval is for these {number} datasets only; for new ones it takes at least {MIN_NEW_SETS}."
    )
    worse = [name for name, of in verdict.by_set.items() if of.outcome == "worse"]
    warning = f" But {verdict.arm} is worse on {listed(worse)}." if worse and verdict.outcome != "worse" else ""
    holm = f" Holm-adjusted for {verdict.num_compared} comparisons." if verdict.num_compared > 1 else ""
    return (
        f"{HEADS[verdict.outcome]}: on the mean of {number} datasets, {verdict.arm} compared with {verdict.against} is "
        f"{size} in {metric_named(verdict.metric).difference_unit}. Margin: {verdict.margin}. "
        f"{scope}{holm}{warning}"
    )
