"""Turn a report into advice. It repeats verdicts, curves and findings, and adds nothing to them.

An arm is recommended if an unblocked verdict calls it as good or better; full fine-tuning, if every other arm is worse.
Rank, targets, rate and epochs are those of that arm, compared with what is known of the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tunewise.desk.fairness.finding import listed
from tunewise.desk.report import search_words, wording
from tunewise.desk.report.sentences import what_would_decide_all
from tunewise.desk.report.views.advice_view import Advice, AdviceItem, Alternative, Topic
from tunewise.desk.report.views.capacity_view import PlacementView
from tunewise.desk.report.views.view import ArmView, Report, VerdictView
from tunewise.desk.study.state import StudyState
from tunewise.spec import LoraMethod
from tunewise.text import numbers

TOPICS: tuple[Topic, ...] = ("method", "rank", "targets", "learning rate", "epochs")


@dataclass(frozen=True)
class _Case:
    """Input of the advice."""

    state: StudyState
    report: Report
    arm: str  # the one that is recommended

    @property
    def view(self) -> ArmView:
        return self.report.arm(self.arm)

    @property
    def lora(self) -> LoraMethod | None:
        return self.state.study.lora_arms.get(self.arm)

    @property
    def runs(self) -> tuple[str, ...]:
        """Confirmed runs of the arm."""
        return tuple(run.run_id for run in self.state.confirmed.get(self.arm, ()))

    @property
    def trials(self) -> tuple[str, ...]:
        """Learning-rate trials of the arm."""
        return tuple(r.run_id for r in self.state.records if (r.spec.arm, r.spec.role) == (self.arm, "tune"))

    @property
    def placement(self) -> PlacementView | None:
        """The comparison of placements that includes the arm."""
        views = self.report.capacity.placements
        return next((view for view in views if self.arm in [point.arm for point in view.points]), None)


def advise(state: StudyState, report: Report) -> Advice:
    """The recommendation that the records of `state` support, with reasons, costs and limits."""
    arm = recommended_arm(report)
    if arm is None:
        why = _why_none(report)
        items = tuple(AdviceItem(topic=topic, say=None, reason=why, runs=()) for topic in TOPICS)
    else:
        case = _Case(state, report, arm)
        items = (_method(case), _rank(case), _targets(case), _rate(case), _epochs(case))
    return Advice(
        arm=arm,
        items=items,
        alternatives=tuple(_alternative(report, view) for view in report.tuned_arms() if view.name != arm),
        missing=tuple(dict.fromkeys(_missing(state, report, arm))),
    )


def recommended_arm(report: Report) -> str | None:
    """The recommended arm; full if every arm in question is worse; None if that is inconclusive."""
    if report.no_verdict or not report.verdicts:
        return None
    if report.recommended_arm:
        return report.recommended_arm
    asked = _asked(report)
    return report.study.full_arm if asked and all(verdict.outcome == "worse" for verdict in asked) else None


def _asked(report: Report) -> list[VerdictView]:
    """Verdicts in question: without that of the reference of gain, unless it is the only one."""
    return [v for v in report.verdicts if v.arm != report.study.reference_arm] or list(report.verdicts)


def _why_none(report: Report) -> str:
    if report.no_verdict:
        return report.no_verdict
    if report.declarations_changed:
        return report.headline
    blocked = sorted({rule for verdict in report.verdicts for rule in verdict.blocked_by})
    if blocked:
        return f"No recommendation: fairness rules withhold verdicts ({', '.join(blocked)})."
    open_ = [verdict.arm for verdict in _asked(report) if verdict.outcome == "undecided"]
    if open_:
        noun = "the verdict on" if len(open_) == 1 else "the verdicts on"
        verb = "is" if len(open_) == 1 else "are"
        return f"No recommendation: {noun} {listed(open_)} {verb} inconclusive."
    return f"No recommendation: the cost of the arms ({report.study.cost}) was not recorded."


# --- the five items


def _method(case: _Case) -> AdviceItem:
    verdicts = {verdict.arm: verdict for verdict in case.report.verdicts}
    if case.arm in verdicts:
        reason = f"{wording.recommendation(case.arm, case.report.study.cost)} {verdicts[case.arm].sentence}"
    else:
        sizes = "; ".join(f"{v.arm} is {_standing(v)}" for v in _asked(case.report))
        reason = f"Every other arm is worse by more than the margin, including its interval: {sizes}."
    return AdviceItem(topic="method", say=f"{case.arm}: {case.view.method}", reason=reason, runs=case.runs)


def _rank(case: _Case) -> AdviceItem:
    if case.lora is None:
        causes = case.report.capacity.low_rank.causes if case.report.capacity.low_rank else ()
        reason = " ".join(causes) or f"{case.arm} has no rank."
        return AdviceItem(topic="rank", say=None, reason=reason, runs=case.runs if causes else ())
    curve = next((view for view in case.report.capacity.ranks if view.trained_as == case.arm), None)
    others = [(rank, verdict) for rank, verdict in _at_other_ranks(case) if rank != case.lora.rank]
    trained = "; ".join(f"rank {rank} ({verdict.arm}): {_standing(verdict)}" for rank, verdict in others)
    parts = [curve.words] if curve else []
    parts += [f"Other ranks that were trained: {trained}."] if trained else []
    reason = " ".join(parts) or "This is the only rank that was tried."
    return AdviceItem(topic="rank", say=str(case.lora.rank), reason=reason, runs=case.runs)


def _at_other_ranks(case: _Case) -> list[tuple[int, VerdictView]]:
    """Verdicts of LoRA arms with the same targets and variant, in order of rank."""
    assert case.lora is not None, "asked of LoRA"
    verdicts = {verdict.arm: verdict for verdict in case.report.verdicts}
    found = [
        (method.rank, verdicts[name])
        for name, method in case.state.study.lora_arms.items()
        if isinstance(method.rank, int)
        and name in verdicts
        and (method.targets, method.variant) == (case.lora.targets, case.lora.variant)
    ]
    return sorted(found, key=lambda one: one[0])


def _targets(case: _Case) -> AdviceItem:
    if case.lora is None:
        return AdviceItem(topic="targets", say=None, reason=f"{case.arm} has no target modules.", runs=())
    targets = case.lora.targets if isinstance(case.lora.targets, str) else ", ".join(case.lora.targets)
    if case.placement is None:
        reason = "These targets were tried; no others were compared at equal parameter budget."
    else:
        reason = case.placement.words
    return AdviceItem(topic="targets", say=targets, reason=reason, runs=case.runs)


def _rate(case: _Case) -> AdviceItem:
    lines = search_words.search(case.view, case.report.study.selection_metric)
    if case.view.learning_rate is None or not lines:
        return AdviceItem(topic="learning rate", say=None, reason=f"{case.arm} was not trained here.", runs=())
    steps = f"{case.view.num_steps:,} steps of {case.state.study.train.batch_size} examples"
    reason = f"On the validation set, {', '.join(lines)}, in {steps}."
    return AdviceItem(topic="learning rate", say=numbers.rate(case.view.learning_rate), reason=reason, runs=case.trials)


def _epochs(case: _Case) -> AdviceItem:
    steps = [step for step in case.view.selected_steps if step is not None]
    if not steps or case.view.num_steps is None:
        return AdviceItem(topic="epochs", say=None, reason=f"{case.arm} was not trained here.", runs=())
    train = case.state.study.train
    say = f"{train.max_steps:,} steps" if train.max_steps else str(train.epochs)
    taken = f"step {steps[0]:,}" if len(set(steps)) == 1 else f"steps {min(steps):,} to {max(steps):,}"
    reason = f"The best weights on the validation set were those of {taken} of {case.view.num_steps:,}. "
    if all(step == case.view.num_steps for step in steps):
        reason += "The arm was still improving at the end, and longer training was not tried."
    elif 2 * max(steps) < case.view.num_steps:
        reason += "The arm was best before half of its steps, and shorter training was not tried."
    else:
        reason += "No other length was tried."
    return AdviceItem(topic="epochs", say=say, reason=reason, runs=case.runs)


# --- the other arms, and limits


def _alternative(report: Report, view: ArmView) -> Alternative:
    verdict = next((v for v in report.verdicts if v.arm == view.name), None)
    if not view.fits_in_memory:
        standing = "out of memory"
    elif view.name == report.study.full_arm:
        standing = "reference of the comparison"
    elif verdict is None:
        standing = "no verdict"
    else:
        standing = _standing(verdict)
    return Alternative(
        arm=view.name,
        standing=standing,
        trainable_parameters=view.trainable_parameters,
        train_seconds=view.train_seconds,
        peak_memory_bytes=view.peak_memory_bytes,
        saved_bytes=view.saved_bytes,
    )


def _standing(verdict: VerdictView) -> str:
    """'worse by 0.2123 (95% CI 0.2029 to 0.2211)', 'inconclusive, 0.0340 worse (...)'."""
    outcome = wording.OUTCOMES[verdict.outcome]
    if verdict.outcome in ("better", "worse"):
        return f"{outcome} by {wording.sized(verdict).replace(f' {outcome}', '', 1)}"
    withheld = f" (withheld by {', '.join(verdict.blocked_by)})" if verdict.blocked_by else ""
    return f"{outcome}{withheld}, {wording.sized(verdict)}"


def _lower_ranks(state: StudyState) -> str:
    """How to test lower ranks. An adapter on experts cannot be truncated (lab/methods/experts.py)."""
    tuned = [run.tuned for arm in state.study.lora_arms for run in state.confirmed.get(arm, ()) if run.tuned]
    if tuned and all(of.num_expert_tensors for of in tuned):
        return "Add an arm with a lower rank: `rank: auto` cannot truncate adapters on experts."
    return "`rank: auto` truncates one adapter to every lower rank."


def _missing(state: StudyState, report: Report, arm: str | None) -> Iterator[str]:
    yield from (f"{f.sentence} ({f.evidence})" for f in report.warnings if f.severity == "blocks")
    if report.no_verdict and not report.is_complete:
        yield "The runs up to the first look are missing."
    needs = [(verdict.arm, need) for verdict in report.verdicts if verdict.needs and (need := verdict.would_decide)]
    if needs:
        yield what_would_decide_all(needs)
    still = [f.sentence for f in report.warnings if f.id in ("still-improving", "early-best", "headroom")]
    yield from still
    yield from _not_asked(state, report, arm)
    yield f"These results hold for `{numbers.short_path(report.study.model)}` on this dataset only."


def _not_asked(state: StudyState, report: Report, arm: str | None) -> Iterator[str]:
    """Questions that this tool can answer and this study did not ask."""
    if not state.study.lora_arms:
        yield "No LoRA arm was trained. Add one with `method: lora`."
        return
    if not report.capacity.ranks:
        yield f"Lower ranks were not tested. {_lower_ranks(state)}"
    if not report.capacity.placements:
        yield "Other target modules were not compared. `targets: auto` compares them at equal parameter budget."
    worse = [v.arm for v in report.verdicts if v.outcome == "worse" and v.arm in state.study.lora_arms]
    if worse and report.capacity.low_rank is None and arm == report.study.full_arm:
        yield (
            f"The cause of the loss of {listed(worse)} was not tested. `extract` in the full arm separates too low a "
            "rank from failed optimization."
        )
