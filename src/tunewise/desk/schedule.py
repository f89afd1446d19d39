"""Which runs come next: a pure function of the study and its records (protocol: docs/03-implementation.md).

Base first; for a new classification head its learning rate next (on the `head` arm, shared by every arm);
then the learning-rate search of every arm by one rule; then confirmation with fresh seeds, in blocks of one
seed with the order of the arms rotated, so that a drift of the machine is no difference between arms.
All arms are confirmed up to the first look; up to a second one only those that were undecided at the first, with
what they are compared with. A run that the machine lost is made once more; an arm that does not fit in memory takes no
part, and the study goes on without it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from tunewise.desk.drafts import Drafts
from tunewise.desk.drafts import short_schedule as short_schedule
from tunewise.desk.search import Search, best_rate, brackets_best, search
from tunewise.errors import SpecError
from tunewise.records import LOST, MAX_ATTEMPTS, DataSummary, Evaluation, RunRecord, Status, Tuned
from tunewise.records.data import num_steps as num_steps
from tunewise.records.plan import StudyPlan
from tunewise.records.selection import pooled, selection_losses
from tunewise.spec import (
    Method,
    Role,
    RunSpec,
    StudySpec,
    Task,
    TrainedArm,
    same_arm,
)
from tunewise.spec.expand import PLACEMENTS, arm_name, expand, with_head_arm

SHORT_RUN_STEPS = 100  # below it LoRA's best rate is about 15x full's instead of 10x ("LoRA Without Regret")
# 15 % of them are 6: trials of 6 steps found the rate that whole runs found, 5 steps told nothing (docs/04-results.md).
MIN_STEPS_FOR_SHORT_TRIALS = 40

# Full fine-tuning centres measured by us or common practice; others by the rule in `centre`.
FULL_CENTRES = {"bert": 5e-5, "roberta": 2e-5, "distilbert": 5e-5, "deberta-v2": 2e-5, "modernbert": 5e-5}


TRIALS: tuple[Role, ...] = ("tune", "short")


class Trial(NamedTuple):
    """One learning-rate trial, as far as its runs ended; `evaluation` is None where a run was lost or diverged."""

    rate: float
    evaluation: Evaluation | None  # pooled over the search seeds
    status: Status
    num_seeds: int  # of the search, that are done


def resolve(study: StudySpec, data: DataSummary) -> StudySpec:
    """The study with its task filled in, an arm for every placement of `targets: auto` and, where there is a new head,
    the `head` arm that tunes its rate.

    Raises SpecError where the runs are too short for short trials.
    """
    return completed(study, data.task, data.arms, num_steps(study, data))


def resolve_as_planned(study: StudySpec, plan: StudyPlan) -> StudySpec:
    """As `resolve`, from the plan of a study whose data is not prepared."""
    return completed(study, plan.task, {name: arm.tuned for name, arm in plan.arms.items()}, plan.work.num_steps)


def completed(study: StudySpec, task: Task, arms: Mapping[str, Tuned], steps: int | None) -> StudySpec:
    """The study with its task and the arms that nobody wrote down.

    `arms`: what each of them trains, those of every placement included; `steps`: of a run, None: not known.
    """
    open_arms = [name for name, method in study.arms.items() if method.has_open_targets]
    study = expand(study, {name: _placement_costs(name, arms) for name in open_arms})
    if study.tuning.search == "short" and steps is not None and steps < MIN_STEPS_FOR_SHORT_TRIALS:
        raise SpecError(
            f"tuning.search: short needs runs of at least {MIN_STEPS_FOR_SHORT_TRIALS} optimizer steps, but these have "
            f"{steps}. Leave it out, or train longer (train.epochs)."
        )
    return with_head_arm(study.replace(task=task), task)


def _placement_costs(name: str, arms: Mapping[str, Tuned]) -> dict[str, int]:
    """Parameters of one rank by placement, of those that the model has."""
    found = {placement: arms.get(arm_name(name, placement)) for placement in PLACEMENTS}
    return {placement: tuned.rank_parameters for placement, tuned in found.items() if tuned and tuned.rank_parameters}


def settle(study: StudySpec, records: Sequence[RunRecord], ranks: Mapping[str, int]) -> StudySpec:
    """The study with `rank: auto` replaced by the ranks that were chosen (desk/ranks.py), where they were.

    An arm that becomes what another one is already leaves its place to that one.

    The search at the new rate begins where that of the highest rank ended: with alpha / rank the best rate hardly
    depends on the rank, else it goes with sqrt(1 / (scale * rank)) as in `centre`. `records` are current.
    """
    rates = selected_rates(study, records)
    arms = dict(study.arms)
    for name, rank in ranks.items():
        searched = study.lora_arms[name]
        if twin(arms, name, rank):
            del arms[name]
            continue
        method = searched.at(rank)
        shift = math.sqrt(searched.scale * searched.top_rank / (method.scale * rank))
        arms[name] = method.replace(learning_rate=float(f"{rates[name] * shift:.3g}"))
    return study.replace(arms=arms)


def twin(arms: Mapping[str, Method], name: str, rank: int) -> str | None:
    """The arm that is what the named one is at this rank, and takes its place; None: there is none."""
    searched = arms[name]
    assert searched.method == "lora", "the arms with a rank to choose are LoRA"
    wanted = same_arm(searched.at(rank))
    return next((other for other, arm in arms.items() if other != name and same_arm(arm) == wanted), None)


def centre(study: StudySpec, data: DataSummary, method: TrainedArm) -> float:
    """The learning rate at which the search of an arm begins.

    Full: a table by model family, else 5e-5 (2000 / hidden)^0.5. LoRA: 10 times that (15 times in runs under 100
    steps), times sqrt(32 / (scale * rank)). Source: Schulman et al. 2025, "LoRA Without Regret".
    """
    if method.learning_rate is not None:
        return method.learning_rate
    full = FULL_CENTRES.get(data.model_type, 5e-5 * math.sqrt(2000 / data.hidden_size))
    if method.method == "full":
        return full
    ratio = 10.0 if num_steps(study, data) >= SHORT_RUN_STEPS else 15.0
    if method.method == "lora":
        return full * ratio * math.sqrt(32 / (method.scale * method.top_rank))
    return full * ratio


def selected_evaluation(record: RunRecord) -> Evaluation | None:
    """The evaluation on valid whose weights the run's scores speak of."""
    return next((e for e in record.evaluations if e.step == record.selected_step), None)


def current(study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records that belong to this very study, under its names of the arms; stale ones are left out.

    A record belongs if its run, drafted anew from today's study and data, has the same id. With a new head it
    must also have used the head rate that the `head` arm's trials chose; a trial must be one that the search makes.
    """
    draft = Drafts(study, data)
    kept = [match for record in records if (match := draft.match(record))]
    if study.accept_stale:
        kept = draft.one_each(kept)
    head = study.reference_arm
    head_rate = shared_head_rate(study, data, _searched(study, data, kept))
    kept = [r for r in kept if r.spec.arm in ("base", head) or r.spec.head_learning_rate in (None, head_rate)]
    return _searched(study, data, kept)


def _searched(study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records without trials that the search of their arm would not have made."""
    found = {arm: found for arm in study.arms if (found := arm_search(study, data, records, arm))}
    # a rate may be waiting for some of its seeds alone
    asked = {("tune", arm): of_arm.tried + of_arm.waiting for arm, of_arm in found.items()}
    asked |= {("short", arm): of_arm.tried_short + of_arm.waiting_short for arm, of_arm in found.items()}
    return [
        r
        for r in records
        if r.spec.role in ("base", "confirm") or r.spec.learning_rate in asked[r.spec.role, r.spec.arm]
    ]


def arm_search(study: StudySpec, data: DataSummary, records: Sequence[RunRecord], arm: str) -> Search | None:
    """How far the search of an arm is; None where nothing is trained."""
    method = study.trained_arms.get(arm)
    if method is None:
        return None
    whole = {role: [t for t in trials(records, arm, role) if t.num_seeds == study.tuning.seeds] for role in TRIALS}
    full, short = ({trial.rate: trial.evaluation for trial in whole[role]} for role in TRIALS)
    if not fits(records, arm):  # another rate would need as much memory
        return Search(list(full), [], list(short), [])
    if method.rates is not None:  # these alone, and a fairness finding says so
        tried = [rate for rate in method.rates if rate in full]
        return Search(tried, [rate for rate in method.rates if rate not in full], [], [])
    return search(study.tuning, centre(study, data, method), full, short, selection_losses)


def shared_head_rate(study: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> float | None:
    """The learning rate of new weights in every arm; None where there are none, or while it is not known."""
    if not data.num_new_parameters:
        return None
    return study.train.head_learning_rate or selected_rates(study, records).get(study.reference_arm)


def fits(records: Sequence[RunRecord], arm: str) -> bool:
    """False if some run of an arm needed more memory than the machine has, so that it takes no part."""
    return not any(r.spec.arm == arm and r.status == "out-of-memory" for r in records)


def trials(records: Sequence[RunRecord], arm: str, role: Role = "tune") -> list[Trial]:
    """The learning-rate trials of an arm that ended, by rising rate: those of full length, or the `short` ones."""
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
    """What the full-length trials of an arm reached: search seed -> rate -> loss, of those that trained to the end."""
    found: dict[int, dict[float, float]] = {}
    for record in records:
        spec = record.spec
        is_trial = (spec.arm, spec.role, record.status) == (arm, "tune", "done")
        if is_trial and spec.learning_rate is not None and math.isfinite(loss := selection_loss(record)):
            found.setdefault(spec.seed, {})[spec.learning_rate] = loss
    return found


def selection_loss(record: RunRecord) -> float:
    """What selection minimises, of the run's selected weights; infinite where nothing was selected."""
    evaluation = selected_evaluation(record)
    return math.inf if evaluation is None else evaluation.selection_loss


def trial_losses(found: Sequence[Trial]) -> dict[float, float | None]:
    """What the search minimises, by rate; None where the trial diverged or failed: the search goes past neither."""
    return selection_losses({trial.rate: trial.evaluation for trial in found})


def measured_losses(found: Sequence[Trial]) -> dict[float, float | None]:
    """Like `trial_losses` without the failed trials, which say nothing about their rates."""
    return trial_losses([trial for trial in found if trial.status not in LOST])


def selected_rates(study: StudySpec, records: Sequence[RunRecord]) -> dict[str, float]:
    """The best tried rate of every arm that has one, and fits in memory."""
    best = {arm: best_rate(trial_losses(trials(records, arm))) for arm in study.arms if fits(records, arm)}
    return {arm: rate for arm, rate in best.items() if rate is not None}


def chosen_trials(study: StudySpec, records: Sequence[RunRecord], arm: str) -> list[RunRecord]:
    """The full-length trials of an arm at its best tried rate, one for every search seed; none without a rate."""
    rate = selected_rates(study, records).get(arm)
    return [r for r in records if rate and (r.spec.arm, r.spec.role, r.spec.learning_rate) == (arm, "tune", rate)]


def is_bracketed(study: StudySpec, records: Sequence[RunRecord], arm: str) -> bool:
    """True if worse (or diverged) rates were tried on both sides of the chosen one, or nothing is trained.

    A failed trial is no worse rate: nobody knows what it would have reached.
    """
    return not study.arms[arm].is_trained or brackets_best(measured_losses(trials(records, arm)))


def confirmed(study: StudySpec, records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Per arm its confirmation runs by rising seed, of the `records` that `asked_for` leaves.

    A seed that an arm lost is left out of all arms that ran it: of all, or at the second look of those that went on
    to it. An `existing` arm has one deterministic record, which stands for every seed.
    """
    runs = _confirmations_by_seed(study, records)
    found: dict[str, list[RunRecord]] = {
        arm: [] for arm in study.arms if any(run.status not in LOST for run in runs.get(arm, {}).values())
    }
    existing = [arm for arm in found if not study.arms[arm].is_trained]
    for look, seeds in enumerate(_seeds_by_look(study)):
        took_part = [arm for arm in found if arm not in existing and runs[arm].keys() & set(seeds)]
        if look > 0 and not took_part:
            break
        kept = [s for s in seeds if all(s in runs[arm] and runs[arm][s].status not in LOST for arm in took_part)]
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
    return [arm for arm in study.arms if arm in {*undecided, study.full_arm, study.reference_arm}]


def next_runs(
    study: StudySpec, data: DataSummary, records: Sequence[RunRecord], undecided: Collection[str]
) -> list[RunSpec]:
    """The runs that can be started now; empty when the study is complete, or its first look is and nothing undecided.

    `study` is resolved, `records` are `current`. `undecided` are the arms whose verdict at the first look was open;
    before that look is complete nobody can know them, and they are not looked at.
    """
    ended = [record for record in records if record.status != "failed" or record.attempts >= MAX_ATTEMPTS]
    draft = Drafts(study, data)
    known = {draft.identity(record.spec) for record in ended}

    def missing(runs: list[RunSpec]) -> list[RunSpec]:
        return [run for run in runs if draft.identity(run) not in known]

    base = missing([draft.base()])
    needs_head_rate = data.num_new_parameters and study.train.head_learning_rate is None
    if needs_head_rate and (waiting := _search(draft, ended, study.reference_arm, None)):
        return base + missing(waiting)
    head_rate = shared_head_rate(study, data, ended)
    searches = [run for arm in study.arms for run in _search(draft, ended, arm, head_rate)]
    if waiting := base + missing(searches):
        return waiting
    rates = selected_rates(study, ended)
    assert not any(study.arms[arm].has_open_rank for arm in rates), "a searched rank: auto is settled first"
    arms = [arm for arm, method in study.arms.items() if arm in rates or not method.is_trained]
    arms = [arm for arm in arms if fits(ended, arm)]
    for seeds in _seeds_by_look(study):
        if waiting := missing(_confirmations(draft, {arm: rates.get(arm) for arm in arms}, head_rate, seeds)):
            return waiting
        arms = [arm for arm in arms if arm in going_on(study, undecided)]
    return []


def _search(draft: Drafts, records: Sequence[RunRecord], arm: str, head_rate: float | None) -> list[RunSpec]:
    found = arm_search(draft.study, draft.data, records, arm)
    if found is None:
        return []
    short = [run for rate in found.waiting_short for run in draft.tune(arm, rate, head_rate, "short")]
    return short + [run for rate in found.waiting for run in draft.tune(arm, rate, head_rate, "tune")]


def _confirmations(
    draft: Drafts, rates: Mapping[str, float | None], head_rate: float | None, seeds: Sequence[int]
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
