"""Which runs come next: a pure function of the study and its records (protocol: docs/03-implementation.md).

Base first; for a new classification head its learning rate next (on the `head` arm, shared by every arm);
then the learning-rate search of every arm by one rule; then confirmation with fresh seeds, in blocks of one
seed with the order of the arms rotated, so that a drift of the machine is no difference between arms.
All arms are confirmed up to the first look; up to a second one only those that were undecided at the first, with
what they are compared with. A run that the machine lost is made once more.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from tunewise.desk.search import Search, best_rate, brackets_best, search
from tunewise.errors import SpecError
from tunewise.records import DataSummary, Evaluation, RunRecord, Status
from tunewise.selection import selection_losses
from tunewise.spec import (
    BaseMethod,
    ExistingMethod,
    FullMethod,
    HeadMethod,
    LoraMethod,
    Method,
    Role,
    RunSpec,
    StudySpec,
    TrainSpec,
)

HEAD_ARM = "head"
MAX_ATTEMPTS = 2  # at a run that the machine loses
SHORT_RUN_STEPS = 100  # below it LoRA's best rate is about 15x full's instead of 10x ("LoRA Without Regret")
SHORT_TRIAL_SHARE = 0.15  # of a run's steps
MIN_STEPS_FOR_SHORT_TRIALS = 20  # 15 % of them are 3: the fewest that can tell one rate from another

# Full fine-tuning centres measured by us or common practice; others by the rule in `centre`.
FULL_CENTRES = {"bert": 5e-5, "roberta": 2e-5, "distilbert": 5e-5, "deberta-v2": 2e-5, "modernbert": 5e-5}


class Trial(NamedTuple):
    """One learning-rate trial that ended; `evaluation` is None where the run diverged or failed."""

    rate: float
    evaluation: Evaluation | None
    status: Status


def resolve(study: StudySpec, data: DataSummary) -> StudySpec:
    """The study with its task filled in and, where there is a new head, the `head` arm that tunes its rate.

    Raises SpecError where the runs are too short for short trials.
    """
    steps = num_steps(study, data)
    if study.tuning.search == "short" and steps < MIN_STEPS_FOR_SHORT_TRIALS:
        raise SpecError(
            f"tuning.search: short needs runs of at least {MIN_STEPS_FOR_SHORT_TRIALS} optimizer steps, but these have "
            f"{steps}. Leave it out, or train longer (train.epochs)."
        )
    arms = dict(study.arms)
    if data.task == "classify" and not any(isinstance(arm, HeadMethod) for arm in arms.values()):
        arms[HEAD_ARM] = HeadMethod()
    return study.replace(task=data.task, arms={name: arm.model_dump() for name, arm in arms.items()})


def num_steps(study: StudySpec, data: DataSummary) -> int:
    """Optimizer steps of every run of the study."""
    return study.train.num_steps(data.split("train").rows)


def short_schedule(study: StudySpec, data: DataSummary) -> TrainSpec:
    """The training of a short trial: a whole schedule, with its warm-up and decay, on 15 % of the steps."""
    return study.train.replace(max_steps=math.ceil(SHORT_TRIAL_SHARE * num_steps(study, data)))


def centre(study: StudySpec, data: DataSummary, method: Method) -> float:
    """The learning rate at which the search of an arm begins.

    Full: a table by model family, else 5e-5 (2000 / hidden)^0.5. LoRA: 10 times that (15 times in runs under 100
    steps), times sqrt(32 / (scale * rank)). Source: Schulman et al. 2025, "LoRA Without Regret".
    """
    assert not isinstance(method, ExistingMethod | BaseMethod), "nothing is trained"
    if method.learning_rate is not None:
        return method.learning_rate
    full = FULL_CENTRES.get(data.model_type, 5e-5 * math.sqrt(2000 / data.hidden_size))
    if isinstance(method, FullMethod):
        return full
    ratio = 10.0 if num_steps(study, data) >= SHORT_RUN_STEPS else 15.0
    if isinstance(method, LoraMethod):
        return full * ratio * math.sqrt(32 / (method.scale * method.rank))
    return full * ratio


def selected_evaluation(record: RunRecord) -> Evaluation | None:
    """The evaluation on valid whose weights the run's scores speak of."""
    return next((e for e in record.evaluations if e.step == record.selected_step), None)


def current(study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records that belong to this very study, under its names of the arms; stale ones are left out.

    A record belongs if its run, drafted anew from today's study and data, has the same id. With a new head it
    must also have used the head rate that the `head` arm's trials chose; a trial must be one that the search makes.
    """
    draft = _Drafts(study, data)
    kept = [match for record in records if (match := draft.match(record))]
    head = reference_arm(study)
    head_rate = shared_head_rate(study, data, _searched(study, data, kept))
    kept = [r for r in kept if r.spec.arm in ("base", head) or r.spec.head_learning_rate in (None, head_rate)]
    return _searched(study, data, kept)


def _searched(study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records without trials that the search of their arm would not have made."""
    found = {arm: found for arm in study.arms if (found := arm_search(study, data, records, arm))}
    asked = {("tune", arm): of_arm.tried for arm, of_arm in found.items()}
    asked |= {("short", arm): of_arm.tried_short for arm, of_arm in found.items()}
    return [
        r
        for r in records
        if r.spec.role in ("base", "confirm") or r.spec.learning_rate in asked[r.spec.role, r.spec.arm]
    ]


def arm_search(study: StudySpec, data: DataSummary, records: Sequence[RunRecord], arm: str) -> Search | None:
    """How far the search of an arm is; None where nothing is trained."""
    method = study.arms[arm]
    if isinstance(method, ExistingMethod):
        return None
    full, short = ({trial.rate: trial.evaluation for trial in trials(records, arm, role)} for role in ("tune", "short"))
    assert not isinstance(method, BaseMethod), "the base is no arm of a study"
    if method.rates is not None:  # these alone, and a fairness finding says so
        tried = [rate for rate in method.rates if rate in full]
        return Search(tried, [rate for rate in method.rates if rate not in full], [], [])
    return search(study.tuning, centre(study, data, method), full, short, selection_losses)


def shared_head_rate(study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> float | None:
    """The learning rate of new weights in every arm; None where there are none, or while it is not known."""
    if not data.num_new_parameters:
        return None
    return study.train.head_learning_rate or selected_rates(study, records).get(reference_arm(study))


def trials(records: Sequence[RunRecord], arm: str, role: Role = "tune") -> list[Trial]:
    """The learning-rate trials of an arm that ended, by rising rate: those of full length, or the `short` ones."""
    found = [
        Trial(r.spec.learning_rate, selected_evaluation(r) if r.status == "done" else None, r.status)
        for r in records
        if r.spec.arm == arm and r.spec.role == role and r.spec.learning_rate is not None
    ]
    return sorted(found, key=lambda trial: trial.rate)


def selection_loss(record: RunRecord) -> float:
    """What selection minimises, of the run's selected weights; infinite where nothing was selected."""
    evaluation = selected_evaluation(record)
    return math.inf if evaluation is None else evaluation.selection_loss


def trial_losses(found: Sequence[Trial]) -> dict[float, float | None]:
    """What the search minimises, by rate; None where the trial diverged or failed: the search goes past neither."""
    return selection_losses({trial.rate: trial.evaluation for trial in found})


def measured_losses(found: Sequence[Trial]) -> dict[float, float | None]:
    """Like `trial_losses` without the failed trials, which say nothing about their rates."""
    return trial_losses([trial for trial in found if trial.status != "failed"])


def selected_rates(study: StudySpec, records: Sequence[RunRecord]) -> dict[str, float]:
    """The best tried rate of every arm that has one."""
    best = {arm: best_rate(trial_losses(trials(records, arm))) for arm in study.arms}
    return {arm: rate for arm, rate in best.items() if rate is not None}


def is_bracketed(study: StudySpec, records: Sequence[RunRecord], arm: str) -> bool:
    """True if worse (or diverged) rates were tried on both sides of the chosen one, or nothing is trained.

    A failed trial is no worse rate: nobody knows what it would have reached.
    """
    return isinstance(study.arms[arm], ExistingMethod) or brackets_best(measured_losses(trials(records, arm)))


def confirmed(study: StudySpec, records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Per arm its confirmation runs by rising seed, of the `records` that `asked_for` leaves.

    A seed that an arm lost is left out of all arms that ran it: of all, or at the second look of those that went on
    to it. An `existing` arm has one deterministic record, which stands for every seed.
    """
    runs = _confirmations_by_seed(study, records)
    found: dict[str, list[RunRecord]] = {
        arm: [] for arm in study.arms if any(run.status != "failed" for run in runs.get(arm, {}).values())
    }
    existing = [arm for arm in found if isinstance(study.arms[arm], ExistingMethod)]
    for look, seeds in enumerate(_seeds_by_look(study)):
        took_part = [arm for arm in found if arm not in existing and runs[arm].keys() & set(seeds)]
        if look > 0 and not took_part:
            break
        kept = [s for s in seeds if all(s in runs[arm] and runs[arm][s].status != "failed" for arm in took_part)]
        for arm in took_part:
            found[arm] += [runs[arm][seed] for seed in kept]
        for arm in existing:
            found[arm] += [next(iter(runs[arm].values()))] * len(kept)
    return found


def _confirmations_by_seed(study: StudySpec, records: Sequence[RunRecord]) -> dict[str, dict[int, RunRecord]]:
    """Per arm the confirmation runs at its chosen rate, lost ones too."""
    rates = selected_rates(study, records)
    found: dict[str, dict[int, RunRecord]] = {}
    for record in records:
        spec = record.spec
        if spec.role == "confirm" and spec.learning_rate == rates.get(spec.arm):
            found.setdefault(spec.arm, {})[spec.seed] = record
    return found


def _seeds_by_look(study: StudySpec) -> list[tuple[int, ...]]:
    """The seeds that each look adds."""
    seeds = study.confirmation_seeds()
    return [seeds[begin:end] for begin, end in pairwise((0, *study.looks))]


def asked_for(study: StudySpec, records: Sequence[RunRecord], undecided: Collection[str]) -> list[RunRecord]:
    """The records without second-look runs of arms that do not go on to it; with nothing undecided, of the first look.

    Such runs are left over from another margin or other looks; to read them would be a look that nobody declared.
    """
    first = _seeds_by_look(study)[0]
    arms = going_on(study, undecided)
    return [r for r in records if r.spec.role != "confirm" or r.spec.seed in first or r.spec.arm in arms]


def going_on(study: StudySpec, undecided: Collection[str]) -> list[str]:
    """The arms that go on to the second look: those undecided at the first, full, and the reference of gain."""
    if not undecided:
        return []
    return [arm for arm in study.arms if arm in {*undecided, full_arm(study), reference_arm(study)}]


def full_arm(study: StudySpec) -> str | None:
    """The arm that the others are compared with; None where there is none."""
    return next((name for name, arm in study.arms.items() if isinstance(arm, FullMethod)), None)


def reference_arm(study: StudySpec) -> str:
    """The arm over which gain is measured: the base, or for classification the head alone."""
    heads = [name for name, arm in study.arms.items() if isinstance(arm, HeadMethod)]
    return heads[0] if study.task == "classify" and heads else "base"


def next_runs(
    study: StudySpec, data: DataSummary, records: Sequence[RunRecord], undecided: Collection[str]
) -> list[RunSpec]:
    """The runs that can be started now; empty when the study is complete, or its first look is and nothing undecided.

    `study` is resolved, `records` are `current`. `undecided` are the arms whose verdict at the first look was open;
    before that look is complete nobody can know them, and they are not looked at.
    """
    ended = [record for record in records if record.status != "failed" or record.attempts >= MAX_ATTEMPTS]
    known = {record.run_id for record in ended}
    draft = _Drafts(study, data)

    def missing(runs: list[RunSpec]) -> list[RunSpec]:
        return [run for run in runs if run.run_id not in known]

    base = missing([draft.base()])
    needs_head_rate = data.num_new_parameters and study.train.head_learning_rate is None
    if needs_head_rate and (waiting := _search(draft, ended, reference_arm(study), None)):
        return base + missing(waiting)
    head_rate = shared_head_rate(study, data, ended)
    searches = [run for arm in study.arms for run in _search(draft, ended, arm, head_rate)]
    if waiting := base + missing(searches):
        return waiting
    rates = selected_rates(study, ended)
    arms = [arm for arm, method in study.arms.items() if arm in rates or isinstance(method, ExistingMethod)]
    for seeds in _seeds_by_look(study):
        if waiting := missing(_confirmations(draft, {arm: rates.get(arm) for arm in arms}, head_rate, seeds)):
            return waiting
        arms = [arm for arm in arms if arm in going_on(study, undecided)]
    return []


def _search(draft: "_Drafts", records: Sequence[RunRecord], arm: str, head_rate: float | None) -> list[RunSpec]:
    found = arm_search(draft.study, draft.data, records, arm)
    if found is None:
        return []
    short = [draft.tune(arm, rate, head_rate, "short") for rate in found.waiting_short]
    return short + [draft.tune(arm, rate, head_rate, "tune") for rate in found.waiting]


def _confirmations(
    draft: "_Drafts", rates: Mapping[str, float | None], head_rate: float | None, seeds: Sequence[int]
) -> list[RunSpec]:
    """Blocks of one seed of every arm in `rates`, the order of the arms rotated."""
    arms = list(rates)
    runs = []
    for block, seed in enumerate(seeds):
        turn = block % len(arms) if arms else 0
        for arm in arms[turn:] + arms[:turn]:
            runs.append(draft.confirm(arm, rates[arm], head_rate, seed))
    unique = {run.run_id: run for run in runs}  # an `existing` arm has no seeds: one run
    return list(unique.values())


class _Drafts:
    """Run specs of one study: what all runs share, written once."""

    def __init__(self, study: StudySpec, data: DataSummary) -> None:
        self.study, self.data = study, data

    def match(self, record: RunRecord) -> RunRecord | None:
        """The record under today's name of its arm, None if no arm of the study makes this run."""
        old = record.spec
        if old.role == "confirm" and old.seed not in self.study.confirmation_seeds():
            return None
        for arm in self.study.arms if old.role != "base" else ("base",):
            if old.role == "base":
                spec = self.base()
            elif old.role != "confirm":
                spec = self.tune(arm, old.learning_rate, old.head_learning_rate, old.role)
            else:
                spec = self.confirm(arm, old.learning_rate, old.head_learning_rate, old.seed)
            if spec.run_id == record.run_id:
                return record.replace(spec=spec)
        return None

    def base(self) -> RunSpec:
        seed = self.study.confirmation_seeds()[0]
        return self._run("base", "base", BaseMethod(), seed, None, None)

    def tune(self, arm: str, rate: float | None, head_rate: float | None, role: Role) -> RunSpec:
        return self._run(arm, role, self.study.arms[arm], self.study.search_seed(), rate, head_rate)

    def confirm(self, arm: str, rate: float | None, head_rate: float | None, seed: int) -> RunSpec:
        method = self.study.arms[arm]
        if isinstance(method, ExistingMethod):
            seed = self.study.confirmation_seeds()[0]
        return self._run(arm, "confirm", method, seed, rate, head_rate)

    def _run(  # noqa: PLR0913 - the one place where a run spec is put together
        self, arm: str, role: Role, method: Method, seed: int, rate: float | None, head_rate: float | None
    ) -> RunSpec:
        study, data = self.study, self.data
        if isinstance(method, HeadMethod) or not data.num_new_parameters:
            head_rate = rate if data.num_new_parameters else None
        is_trial = role in ("short", "tune")
        shows_samples = not is_trial and seed == study.confirmation_seeds()[0]
        general = None if is_trial else data.inputs.general
        return RunSpec(
            arm=arm,
            role=role,
            model=study.model,
            trust_remote_code=study.trust_remote_code,
            task=data.task,
            method=method,
            train=short_schedule(study, data) if role == "short" else study.train,
            learning_rate=rate,
            head_learning_rate=head_rate if rate is not None else None,
            seed=seed,
            checkpoint=study.checkpoint,
            score_splits=("valid",) if is_trial else ("valid", "test"),
            samples=study.samples if shows_samples else study.samples.replace(count=0),
            metrics=() if is_trial else study.metrics,
            forgetting_points=study.forgetting.points if role == "confirm" and general and rate is not None else 0,
            device=data.device,
            precision=data.precision,
            threads=data.threads,
            attention=study.machine.attention,
            inputs=data.inputs.replace(general=general, existing=data.existing.get(arm)),
        )
