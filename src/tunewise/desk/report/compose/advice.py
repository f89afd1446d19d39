"""From a report to advice. It repeats what verdicts, curves and findings say, and is silent where they are.

An arm is recommended if a verdict that no fairness rule holds back calls it as good or better; full fine-tuning, if
every other arm is called worse. Rank, targets, rate and epochs are those of that arm, beside what is known of others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tunewise.desk.fairness.finding import listed
from tunewise.desk.report import wording
from tunewise.desk.report.views.advice_view import Advice, AdviceItem, Alternative, Topic
from tunewise.desk.report.views.capacity_view import PlacementView
from tunewise.desk.report.views.view import ArmView, Report, VerdictView
from tunewise.desk.study.state import StudyState
from tunewise.spec import LoraMethod
from tunewise.text import numbers

TOPICS: tuple[Topic, ...] = ("method", "rank", "targets", "learning rate", "epochs")


@dataclass(frozen=True)
class _Case:
    """What advice is read from."""

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
        """The confirmed runs of the arm."""
        return tuple(run.run_id for run in self.state.confirmed.get(self.arm, ()))

    @property
    def trials(self) -> tuple[str, ...]:
        """Its learning-rate trials."""
        return tuple(r.run_id for r in self.state.records if (r.spec.arm, r.spec.role) == (self.arm, "tune"))

    @property
    def placement(self) -> PlacementView | None:
        """The comparison of placements that the arm is part of."""
        views = self.report.capacity.placements
        return next((view for view in views if self.arm in [point.arm for point in view.points]), None)


def advise(state: StudyState, report: Report) -> Advice:
    """What the records of `state` recommend; with reasons, costs and what is missing."""
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
    """The arm that the report recommends; full where every arm in question is worse; None where that is open."""
    if report.no_verdict or not report.verdicts:
        return None
    if report.recommended_arm:
        return report.recommended_arm
    asked = _asked(report)
    return report.study.full_arm if asked and all(verdict.outcome == "worse" for verdict in asked) else None


def _asked(report: Report) -> list[VerdictView]:
    """The verdicts in question: not that of the reference of gain, unless it is the only one."""
    return [v for v in report.verdicts if v.arm != report.study.reference_arm] or list(report.verdicts)


def _why_none(report: Report) -> str:
    if report.no_verdict:
        return report.no_verdict
    if report.declarations_changed:
        return report.headline
    blocked = sorted({rule for verdict in report.verdicts for rule in verdict.blocked_by})
    if blocked:
        return f"No recommendation: fairness rules hold verdicts back ({', '.join(blocked)})."
    open_ = [verdict.arm for verdict in _asked(report) if verdict.outcome == "undecided"]
    if open_:
        verb = "is" if len(open_) == 1 else "are"
        return f"No recommendation: {listed(open_)} {verb} undecided against full fine-tuning."
    return f"No recommendation: what the arms cost ({report.study.cost}) was not recorded."


# --- the five items


def _method(case: _Case) -> AdviceItem:
    verdicts = {verdict.arm: verdict for verdict in case.report.verdicts}
    if case.arm in verdicts:
        reason = f"{wording.recommendation(case.arm, case.report.study.cost)} {verdicts[case.arm].sentence}"
    else:
        told = "; ".join(f"{v.arm} {_difference(v)}" for v in _asked(case.report))
        reason = f"Every other arm is worse by more than the margin, its interval included: {told}."
    return AdviceItem(topic="method", say=f"{case.arm}: {case.view.method}", reason=reason, runs=case.runs)


def _difference(verdict: VerdictView) -> str:
    value = wording.difference(verdict.metric, verdict.difference)
    return f"{value} ({wording.signed_interval(verdict.metric, verdict)})"


def _rank(case: _Case) -> AdviceItem:
    if case.lora is None:
        causes = case.report.capacity.low_rank.causes if case.report.capacity.low_rank else ()
        reason = " ".join(causes) or f"{case.arm} has no rank."
        return AdviceItem(topic="rank", say=None, reason=reason, runs=case.runs if causes else ())
    curve = next((view for view in case.report.capacity.ranks if view.trained_as == case.arm), None)
    others = [(rank, verdict) for rank, verdict in _at_other_ranks(case) if rank != case.lora.rank]
    told = "; ".join(
        f"rank {rank} ({verdict.arm}) {verdict.outcome}, {_difference(verdict)}" for rank, verdict in others
    )
    parts = [curve.words] if curve else []
    parts += [f"Trained by themselves at other ranks: {told}."] if told else []
    reason = " ".join(parts) or "The rank that was tried; no other one was."
    return AdviceItem(topic="rank", say=str(case.lora.rank), reason=reason, runs=case.runs)


def _at_other_ranks(case: _Case) -> list[tuple[int, VerdictView]]:
    """Verdicts of LoRA arms that have the targets and the variant of this one, by rising rank."""
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
        reason = "The targets that were tried; no others were compared at equal budget."
    else:
        reason = case.placement.words
    return AdviceItem(topic="targets", say=targets, reason=reason, runs=case.runs)


def _rate(case: _Case) -> AdviceItem:
    lines = wording.search(case.view, case.report.study.task)
    if case.view.learning_rate is None or not lines:
        return AdviceItem(topic="learning rate", say=None, reason=f"{case.arm} was not trained here.", runs=())
    steps = f"{case.view.num_steps:,} steps of {case.state.study.train.batch_size} examples"
    reason = f"On valid {', '.join(lines)}, in {steps}."
    return AdviceItem(topic="learning rate", say=numbers.rate(case.view.learning_rate), reason=reason, runs=case.trials)


def _epochs(case: _Case) -> AdviceItem:
    steps = [step for step in case.view.selected_steps if step is not None]
    if not steps or case.view.num_steps is None:
        return AdviceItem(topic="epochs", say=None, reason=f"{case.arm} was not trained here.", runs=())
    train = case.state.study.train
    say = f"{train.max_steps:,} steps" if train.max_steps else str(train.epochs)
    taken = f"step {steps[0]:,}" if len(set(steps)) == 1 else f"steps {min(steps):,} to {max(steps):,}"
    reason = f"The length that was tried; the weights of {taken} of {case.view.num_steps:,} were the best on valid. "
    if all(step == case.view.num_steps for step in steps):
        reason += "It was still improving at the end, and longer training was not tried."
    elif 2 * max(steps) < case.view.num_steps:
        reason += "It was best before half of its steps, and shorter training was not tried."
    else:
        reason += "No other length was tried."
    return AdviceItem(topic="epochs", say=say, reason=reason, runs=case.runs)


# --- the others, and what is not known


def _alternative(report: Report, view: ArmView) -> Alternative:
    verdict = next((v for v in report.verdicts if v.arm == view.name), None)
    if not view.fits_in_memory:
        standing = "out of memory"
    elif view.name == report.study.full_arm:
        standing = "what the others are compared with"
    elif verdict is None:
        standing = "no verdict"
    else:
        held = f" (held back: {', '.join(verdict.blocked_by)})" if verdict.blocked_by else ""
        standing = f"{verdict.outcome}{held}, {_difference(verdict)}"
    return Alternative(
        arm=view.name,
        standing=standing,
        trainable_parameters=view.trainable_parameters,
        train_seconds=view.train_seconds,
        peak_memory_bytes=view.peak_memory_bytes,
        saved_bytes=view.saved_bytes,
    )


def _missing(state: StudyState, report: Report, arm: str | None) -> Iterator[str]:
    yield from (f"{f.sentence} ({f.evidence})" for f in report.warnings if f.severity == "blocks")
    if report.no_verdict and not report.is_complete:
        yield "The runs up to the first look."
    for verdict in report.verdicts:
        if verdict.outcome == "undecided" and verdict.needs:
            yield f"{verdict.arm}: {verdict.needs}"
    still = [f.sentence for f in report.warnings if f.id in ("still-improving", "early-best", "headroom")]
    yield from still
    yield from _not_asked(state, report, arm)
    yield f"Anything but {numbers.short_path(report.study.model)} on these rows: other data and models may differ."


def _not_asked(state: StudyState, report: Report, arm: str | None) -> Iterator[str]:
    """Questions that this tool answers and this study did not ask."""
    if not state.study.lora_arms:
        yield "How LoRA does: no arm of it was trained (`method: lora`)."
        return
    if not report.capacity.ranks:
        yield "Whether a lower rank would do: `rank: auto` cuts one adapter down to all of them."
    if not report.capacity.placements:
        yield "Which modules: `targets: auto` compares them at equal budget."
    worse = [v.arm for v in report.verdicts if v.outcome == "worse" and v.arm in state.study.lora_arms]
    if worse and report.capacity.low_rank is None and arm == report.study.full_arm:
        yield f"Why {listed(worse)} falls short: `extract` of the full arm tells the rank from the optimisation."
