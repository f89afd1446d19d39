"""Which runs come next: a pure function of the study and its records (protocol: docs/03-implementation.md).

Base first; for a new classification head its learning rate next (on the `head` arm, shared by every arm);
then the learning-rate search of every arm by one rule; then confirmation with fresh seeds, in blocks of one
seed with the order of the arms rotated, so that a drift of the machine is no difference between arms.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tunewise.records import DataSummary, Evaluation, RunRecord
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
    TuningSpec,
)

HEAD_ARM = "head"
SHORT_RUN_STEPS = 100  # below it LoRA's best rate is about 15x full's instead of 10x ("LoRA Without Regret")

# Full fine-tuning centres measured by us or common practice; others by the rule in `centre`.
FULL_CENTRES = {"bert": 5e-5, "roberta": 2e-5, "distilbert": 5e-5, "deberta-v2": 2e-5, "modernbert": 5e-5}


class Trial(NamedTuple):
    """One finished learning-rate trial; `evaluation` is None where the run diverged or failed."""

    rate: float
    evaluation: Evaluation | None


def resolve(study: StudySpec, data: DataSummary) -> StudySpec:
    """The study with its task filled in and, where there is a new head, the `head` arm that tunes its rate."""
    arms = dict(study.arms)
    if data.task == "classify" and not any(isinstance(arm, HeadMethod) for arm in arms.values()):
        arms[HEAD_ARM] = HeadMethod()
    return study.replace(task=data.task, arms={name: arm.model_dump() for name, arm in arms.items()})


def num_steps(study: StudySpec, data: DataSummary) -> int:
    """Optimizer steps of every run of the study."""
    return study.train.num_steps(data.split("train").rows)


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


def grid_rate(tuning: TuningSpec, middle: float, index: int) -> float:
    """The rate `index` places above the centre, rounded to 3 digits so that it prints as it is."""
    return float(f"{middle * tuning.spacing**index:.3g}")


class Search(NamedTuple):
    """How far the search of an arm is."""

    tried: dict[float, float | None]  # rate -> loss, of the trials that the rule asked for
    waiting: list[float]  # rates to try next; empty when the search is over


def search(tuning: TuningSpec, middle: float, losses: Mapping[float, float | None]) -> Search:
    """The rule followed from its beginning, as far as `losses` (rate -> loss, None: diverged) reaches.

    So trials left over from another centre or cap change nothing, and a lost trial is made again.
    """
    tried: dict[float, float | None] = {}
    while wanted := next_rates(tuning, middle, tried):
        tried |= {rate: losses[rate] for rate in wanted if rate in losses}
        if missing := [rate for rate in wanted if rate not in losses]:
            return Search(tried, missing)
    return Search(tried, [])


def next_rates(tuning: TuningSpec, middle: float, losses: Mapping[float, float | None]) -> list[float]:
    """Rates to try after those in `losses`; empty when the search is over. None: a diverged rate; lower is better."""
    half = (tuning.rates - 1) // 2
    begin = [grid_rate(tuning, middle, i - half) for i in range(tuning.rates)]
    if missing := [rate for rate in begin if rate not in losses]:
        return missing
    if len(losses) >= tuning.cap or tuning.rates == 1:
        return []
    low, high = -half, tuning.rates - 1 - half
    while grid_rate(tuning, middle, low - 1) in losses:
        low -= 1
    while grid_rate(tuning, middle, high + 1) in losses:
        high += 1
    finished = {rate: loss for rate, loss in losses.items() if loss is not None}
    best = min(finished, key=lambda rate: (finished[rate], rate)) if finished else None
    if best is None or best == grid_rate(tuning, middle, low):
        return [grid_rate(tuning, middle, low - 1)]
    if best == grid_rate(tuning, middle, high):
        return [grid_rate(tuning, middle, high + 1)]
    return []


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
    tried = {
        arm: search(study.tuning, centre(study, data, method), trial_losses(trials(records, arm))).tried
        for arm, method in study.arms.items()
        if not isinstance(method, ExistingMethod)
    }
    return [r for r in records if r.spec.role != "tune" or r.spec.learning_rate in tried[r.spec.arm]]


def shared_head_rate(study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> float | None:
    """The learning rate of new weights in every arm; None where there are none, or while it is not known."""
    if not data.num_new_parameters:
        return None
    return study.train.head_learning_rate or selected_rates(study, records).get(reference_arm(study))


def trials(records: Sequence[RunRecord], arm: str) -> list[Trial]:
    """The finished learning-rate trials of an arm, by rising rate."""
    found = [
        Trial(record.spec.learning_rate, selected_evaluation(record) if record.status == "done" else None)
        for record in records
        if record.spec.arm == arm and record.spec.role == "tune" and record.spec.learning_rate is not None
    ]
    return sorted(found, key=lambda trial: trial.rate)


def selection_loss(record: RunRecord) -> float:
    """What selection minimises, of the run's selected weights; infinite where nothing was selected."""
    evaluation = selected_evaluation(record)
    return math.inf if evaluation is None else evaluation.selection_loss


def trial_losses(found: Sequence[Trial]) -> dict[float, float | None]:
    """What the search minimises, by rate; None where the trial diverged."""
    return {t.rate: None if t.evaluation is None else t.evaluation.selection_loss for t in found}


def selected_rates(study: StudySpec, records: Sequence[RunRecord]) -> dict[str, float]:
    """The best tried rate of every arm that has one."""
    chosen = {}
    for arm in study.arms:
        finished = {r: v for r, v in trial_losses(trials(records, arm)).items() if v is not None}
        if finished:
            chosen[arm] = min(finished, key=lambda rate: (finished[rate], rate))
    return chosen


def is_bracketed(study: StudySpec, records: Sequence[RunRecord], arm: str) -> bool:
    """True if worse (or diverged) rates were tried on both sides of the chosen one, or nothing is trained."""
    if isinstance(study.arms[arm], ExistingMethod):
        return True
    tried = sorted(trial_losses(trials(records, arm)))
    chosen = selected_rates(study, records).get(arm)
    return chosen is not None and tried[0] < chosen < tried[-1]


def confirmed(study: StudySpec, records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Per arm its confirmation runs by rising seed; seeds that any arm lost are left out of all.

    An `existing` arm has one deterministic record, which stands for every seed.
    """
    rates = selected_rates(study, records)
    by_arm: dict[str, dict[int, RunRecord]] = {}
    for record in records:
        spec = record.spec
        chosen = isinstance(spec.method, ExistingMethod) or spec.learning_rate == rates.get(spec.arm)
        if spec.role == "confirm" and record.status != "failed" and chosen:
            by_arm.setdefault(spec.arm, {})[spec.seed] = record
    for arm, runs in by_arm.items():
        if isinstance(study.arms[arm], ExistingMethod):
            by_arm[arm] = dict.fromkeys(study.confirmation_seeds(), next(iter(runs.values())))
    shared = [s for s in study.confirmation_seeds() if all(s in runs for runs in by_arm.values())]
    return {arm: [by_arm[arm][seed] for seed in shared] for arm in study.arms if arm in by_arm}


def reference_arm(study: StudySpec) -> str:
    """The arm over which gain is measured: the base, or for classification the head alone."""
    heads = [name for name, arm in study.arms.items() if isinstance(arm, HeadMethod)]
    return heads[0] if study.task == "classify" and heads else "base"


def next_runs(study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> list[RunSpec]:
    """The runs that can be started now; empty when the study is complete.

    `study` is resolved, `records` are `current`.
    """
    known = {record.run_id for record in records}
    draft = _Drafts(study, data)

    def missing(runs: list[RunSpec]) -> list[RunSpec]:
        return [run for run in runs if run.run_id not in known]

    base = missing([draft.base()])
    if data.num_new_parameters and study.train.head_learning_rate is None:
        search = _search(draft, records, reference_arm(study), None)
        if search:
            return base + missing(search)
    head_rate = shared_head_rate(study, data, records)
    searches = [run for arm in study.arms for run in _search(draft, records, arm, head_rate)]
    if waiting := base + missing(searches):
        return waiting
    rates = selected_rates(study, records)
    return missing(_confirmations(draft, rates, head_rate))


def _search(draft: "_Drafts", records: Sequence[RunRecord], arm: str, head_rate: float | None) -> list[RunSpec]:
    method = draft.study.arms[arm]
    if isinstance(method, ExistingMethod):
        return []
    middle = centre(draft.study, draft.data, method)
    found = search(draft.study.tuning, middle, trial_losses(trials(records, arm)))
    return [draft.tune(arm, rate, head_rate) for rate in found.waiting]


def _confirmations(draft: "_Drafts", rates: Mapping[str, float], head_rate: float | None) -> list[RunSpec]:
    arms = [arm for arm, method in draft.study.arms.items() if arm in rates or isinstance(method, ExistingMethod)]
    runs = []
    for block, seed in enumerate(draft.study.confirmation_seeds()):
        turn = block % len(arms) if arms else 0
        for arm in arms[turn:] + arms[:turn]:
            runs.append(draft.confirm(arm, rates.get(arm), head_rate, seed))
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
            elif old.role == "tune":
                spec = self.tune(arm, old.learning_rate, old.head_learning_rate)
            else:
                spec = self.confirm(arm, old.learning_rate, old.head_learning_rate, old.seed)
            if spec.run_id == record.run_id:
                return record.replace(spec=spec)
        return None

    def base(self) -> RunSpec:
        seed = self.study.confirmation_seeds()[0]
        return self._run("base", "base", BaseMethod(), seed, None, None)

    def tune(self, arm: str, rate: float | None, head_rate: float | None) -> RunSpec:
        return self._run(arm, "tune", self.study.arms[arm], self.study.search_seed(), rate, head_rate)

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
        shows_samples = role != "tune" and seed == study.confirmation_seeds()[0]
        general = None if role == "tune" else data.inputs.general
        return RunSpec(
            arm=arm,
            role=role,
            model=study.model,
            trust_remote_code=study.trust_remote_code,
            task=data.task,
            method=method,
            train=study.train,
            learning_rate=rate,
            head_learning_rate=head_rate if rate is not None else None,
            seed=seed,
            checkpoint=study.checkpoint,
            score_splits=("valid",) if role == "tune" else ("valid", "test"),
            samples=study.samples if shows_samples else study.samples.replace(count=0),
            forgetting_points=study.forgetting.points if role == "confirm" and general and rate is not None else 0,
            device=data.device,
            precision=data.precision,
            threads=data.threads,
            attention=study.machine.attention,
            inputs=data.inputs.replace(general=general, existing=data.existing.get(arm)),
        )
