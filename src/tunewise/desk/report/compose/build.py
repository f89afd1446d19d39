"""Build the report of a study folder from its records and scores."""

import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import yaml

from tunewise.desk.fairness import run_warnings
from tunewise.desk.fairness.finding import Finding, by_arm, listed
from tunewise.desk.metrics.metrics import compute, metric_named, primary_metric
from tunewise.desk.planning.estimates import study_seconds
from tunewise.desk.protocol import trials
from tunewise.desk.report.compose.advice import advise
from tunewise.desk.report.compose.arms import arm_cost, arm_views
from tunewise.desk.report.compose.capacity import capacity
from tunewise.desk.report.compose.evidence import Evidence
from tunewise.desk.report.sentences import has_needs, prospect, second_sentence, sentence, what_would_decide
from tunewise.desk.report.views.view import ProspectView, Report, SampleView, StudyView, VerdictView
from tunewise.desk.statistics.bootstrap import pigeonhole_intervals
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.multiplicity import recommended
from tunewise.desk.statistics.paired import PairedRuns
from tunewise.desk.statistics.verdict import Outcome, Verdict
from tunewise.desk.study.declarations import GONE, as_exploratory, changed, changed_finding
from tunewise.desk.study.looks import Reading, read_looks
from tunewise.desk.study.prospects import prospects
from tunewise.desk.study.state import StudyState
from tunewise.desk.study.test_set import findings_on_test_set, recorded_uses
from tunewise.desk.study.verdicts import are_seeds_apart, case_of, findings_of, why_no_verdict, words_at
from tunewise.records.plan import StudyPlan
from tunewise.spec.resolved import ResolvedStudy
from tunewise.storage.ledger import Ledger
from tunewise.text.numbers import short_path


def build_report(ledger: Ledger) -> Report:
    """The report of a study folder, complete or not. Raises StudyError if it holds no prepared data."""
    reading = read_looks(StudyState.read(ledger), words_at)
    state, verdicts = reading.state, reading.verdicts
    evidence = Evidence.of(state)
    findings = findings_of(state)
    cross_checks, uses = _cross_checks(reading), recorded_uses(state)
    moved = changed(ledger.declared(), state.study, state.data, state.records)
    exploratory = [changed_finding(moved)] if moved else []
    for finding in exploratory:
        verdicts = tuple(as_exploratory(verdict, finding) for verdict in verdicts)
    no_verdict = _why_not_yet(reading) or why_no_verdict(state)
    candidates = state.study.compared_arms
    unfit = [arm for arm in candidates if not trials.fits(state.records, arm)]
    answer = no_verdict or headline([v for v in verdicts if v.arm in candidates], unfit)
    if moved:
        happened = "is gone" if moved == GONE else "changed"
        answer = f"Exploratory, no verdict: {listed(moved)} {happened} after the first test score."
    report = Report(
        tunewise_version=version("tunewise"),
        study=_study_view(reading, evidence.plan),
        headline=answer,
        declarations_changed=moved,
        recommended_arm=_recommendation(evidence, verdicts),
        is_complete=reading.is_complete,
        no_verdict=no_verdict,
        arms=arm_views(evidence),
        verdicts=tuple(
            VerdictView(
                **dict(verdict),
                sentence=sentence(verdict),
                secondary_sentence=verdict.secondary and second_sentence(verdict.secondary),
                needs=what_would_decide(need) if (need := verdict.would_decide) and has_needs(verdict) else None,
                pigeonhole=cross_checks[verdict.arm],
                look=reading.looks[verdict.arm],
                seed_differences=_by_seed(reading.read_in[verdict.arm], verdict),
            )
            for verdict in verdicts
        ),
        prospects=tuple(ProspectView(**dict(of), sentence=prospect(of)) for of in prospects(state)),
        capacity=capacity(state, (*exploratory, *findings), reading.is_complete),
        samples=_samples(state),
        test_set=uses and uses.view,
        data=state.data,
        environment=next((r.environment for r in state.records if r.environment), None),
        warnings=(
            *exploratory,
            *findings,
            *_far_runs(verdicts),
            *findings_on_test_set(reading, uses),
            *run_warnings(state.records),
        ),
    )
    return Report(**{**dict(report), "advice": advise(state, report)})


# --- the study and its verdicts


def _study_view(reading: Reading, plan: StudyPlan | None) -> StudyView:
    state, verdicts = reading.state, reading.verdicts
    study, path = state.study, state.files.ledger.folder
    again = ["tunewise", "compare", str(path / "study.yaml"), "--out", f"{path}-again"]
    finished = [*state.first_searches, *state.records]
    usages = [record.usage for record in finished if record.usage]
    run_seconds = sum(u.load_seconds + (u.train_seconds or 0) + u.evaluate_seconds for u in usages)
    price = study.machine.price
    return StudyView(
        name=study.name,
        model=study.model,
        task=state.data.task,
        sources={s.split: s.source for s in state.data.splits},
        question=_question(study, state.full),
        primary_metric=primary_metric(state.data.task, study.primary),
        selected_by=study.selecting_metric.name if study.selecting_metric else None,
        cost=study.cost,
        reference_arm=study.reference_arm,
        full_arm=state.full,
        margin=verdicts[0].margin if verdicts else study.margin,
        full_within_margin_after=case_of(state).full_within_margin_after() if verdicts else None,
        seeds=tuple(sorted({run.spec.seed for runs in state.confirmed.values() for run in runs})),
        planned_seeds=study.confirmation_seeds()[: study.looks[len(reading.going)]],
        looks=study.looks,
        went_on=reading.going,
        finished_runs=len(finished),
        run_seconds=run_seconds,
        planned_seconds=plan and study_seconds(state.searched, plan),
        price=price,
        run_cost=price.cost(run_seconds) if price else None,
        command=shlex.join(again),
        resolved=yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False),
    )


def _question(study: ResolvedStudy, full: str | None) -> str:
    others = study.compared_arms
    model, data = short_path(study.model), short_path(study.data.train)
    if full is None or not others:
        verb = "does" if len(study.arms) == 1 else "do"
        return f"How well {verb} {listed(list(study.arms))} tune {model} on {data}?"
    verb = "Is" if len(others) == 1 else "Are"
    return f"{verb} {listed(others)} as good as full fine-tuning of {model} on {data}?"


def _why_not_yet(reading: Reading) -> str | None:
    """A sentence on what is missing until a look is complete; None: nothing."""
    if reading.is_complete:
        return None
    begin = f"No verdict yet: {len(reading.state.records)} runs are done. "
    resume = "Run the same command again to continue."
    looks = reading.state.study.looks
    if reading.going:
        before, on = looks[len(reading.going) - 1 : len(reading.going) + 1], reading.going[-1]
        return (
            f"{begin}After the interim look at {before[0]} seeds, {listed(on)} "
            f"{'continues' if len(on) == 1 else 'continue'} to {before[1]} seeds. {resume}"
        )
    return f"{begin}The verdict is given once every arm has {looks[0]} confirmed seeds. {resume}"


def _cross_checks(reading: Reading) -> dict[str, Estimate | None]:
    """Arm -> its interval by another method, at the confidence of its verdict; None: its seeds are not paired."""
    paired = [verdict for verdict in reading.verdicts if not are_seeds_apart(reading.state.study, verdict.arm)]
    asked = []
    for verdict in paired:
        state = reading.read_in[verdict.arm]
        runs = {arm: state.scores(state.confirmed[arm]) for arm in (verdict.arm, verdict.against)}
        difference = PairedRuns(metric_named(verdict.metric), runs).contrast({verdict.arm: 1, verdict.against: -1})
        asked.append((difference, verdict.confidence))
    found = dict(zip((verdict.arm for verdict in paired), pigeonhole_intervals(asked), strict=True))
    return {verdict.arm: found.get(verdict.arm) for verdict in reading.verdicts}


def _far_runs(verdicts: Sequence[Verdict]) -> tuple[Finding, ...]:
    """A finding on runs that ended far from the others of their arm."""
    far = {arm: seeds for verdict in verdicts for arm, seeds in verdict.far_runs.items()}
    if not far:
        return ()
    return (
        Finding(
            id="far-run",
            severity="warns",
            sentence=f"Runs of {listed(list(far))} ended far from the others of their arm, so a mean over seeds does "
            "not describe a typical run. Look at their training curves and try more seeds.",
            evidence=by_arm(far, lambda seeds: f"seeds {', '.join(map(str, seeds))}"),
            arms=tuple(far),
        ),
    )


def _by_seed(state: StudyState, verdict: Verdict) -> tuple[float, ...]:
    """The arm's metric minus that of full with the same seed, or minus the mean of full if the seeds are not paired."""
    own, full = (
        [compute(verdict.metric, scores) for scores in state.scores(state.confirmed[arm])]
        for arm in (verdict.arm, verdict.against)
    )
    if are_seeds_apart(state.study, verdict.arm):
        full = [sum(full) / len(full)] * len(own)
    return tuple(a - b for a, b in zip(own, full, strict=True))


def _recommendation(evidence: Evidence, verdicts: Sequence[Verdict]) -> str | None:
    state = evidence.state
    candidates = [verdict for verdict in verdicts if verdict.arm in state.study.compared_arms]
    return recommended(candidates, {v.arm: getattr(arm_cost(evidence, v.arm), state.study.cost) for v in candidates})


def headline(verdicts: Sequence[Verdict], unfit: Sequence[str] = ()) -> str:
    """The outcome of every arm; of an arm that a fairness rule blocks, the names of the rules.

    `unfit`: the arms that are excluded because they do not fit in memory.
    """
    allowed = [verdict for verdict in verdicts if not verdict.blocked_by]
    stated = outcomes_stated({verdict.arm: verdict.outcome for verdict in allowed})
    blocked: dict[tuple[str, ...], list[str]] = {}
    for verdict in verdicts:
        if verdict.blocked_by:
            blocked.setdefault(verdict.blocked_by, []).append(verdict.arm)
    sentences = [*stated]
    failed = [v for v in allowed if v.outcome in ("better", "as good") and v.num_failed]
    sentences += [f"{v.num_failed} of {v.num_seeds} runs of {v.arm} failed" for v in failed]
    seconds = [v.secondary for v in verdicts if v.secondary and v.secondary.outcome == "worse"]
    sentences += [f"{second.arm} is worse in {metric_named(second.metric).label}" for second in seconds]
    sentences += [f"Verdict withheld for {listed(of)}: {', '.join(rules)}" for rules, of in blocked.items()]
    sentences += [f"No verdict for {listed(unfit)}: out of memory"] if unfit else []
    return ". ".join(sentences) + "."


CLAUSES: dict[Outcome, str] = {
    "better": "better than full fine-tuning",
    "as good": "as good as full fine-tuning within the margin",
    "worse": "worse than full fine-tuning",
}


def outcomes_stated(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Sentences without a period: the arms that have an outcome, then those that are inconclusive."""
    arms = {outcome: [arm for arm, own in outcomes.items() if own == outcome] for outcome in (*CLAUSES, "undecided")}
    decided = [f"{listed(arms[o])} {'is' if len(arms[o]) == 1 else 'are'} {CLAUSES[o]}" for o in CLAUSES if arms[o]]
    sentences = ["; ".join(decided)] if decided else []
    if arms["undecided"]:
        sentences.append(f"{listed(arms['undecided'])} vs. full fine-tuning: inconclusive")
    return sentences


# --- samples


def _samples(state: StudyState) -> tuple[SampleView, ...]:
    """Outputs of the base and the arms for the prompts that the base and every confirmed arm answered."""
    first = {arm: next((run for run in runs if run.samples), None) for arm, runs in state.confirmed.items()}
    runs = {"base": state.base, **first}
    outputs = {arm: {s.example: s.output for s in run.samples} for arm, run in runs.items() if run}
    return tuple(
        SampleView(
            example=sample.example,
            prompt=sample.prompt,
            reference=sample.reference,
            outputs={arm: of_arm[sample.example] for arm, of_arm in outputs.items() if sample.example in of_arm},
        )
        for sample in (state.base.samples if state.base else ())
    )
