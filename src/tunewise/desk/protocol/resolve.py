"""Turn the study as written into the study that runs, in this order.

1. Its paths are the command's (spec/reading.py), and of its arms the command may keep one.
2. `resolve`: the task, an arm for every placement of `targets: auto`, and the head arm. From here on it is resolved.
3. `settled`: the tokens of a micro-batch, as the plan found them.
4. What fits into its budget, once its first trial is done (desk/planning/budget.py).
5. `settle`: the ranks that its own trials chose.

The first three are done once, by a command. The last two follow from the records, in desk/study/state.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from tunewise.desk.protocol.trials import selected_rates
from tunewise.errors import SpecError
from tunewise.records import DataSummary, RunRecord, TrainableSummary
from tunewise.records.data import num_steps
from tunewise.records.plan import StudyPlan
from tunewise.spec import LoraMethod, Method, StudySpec, Task, TrainSpec, same_arm
from tunewise.spec.expand import PLACEMENTS, arm_name, expand, with_head_arm
from tunewise.spec.resolved import ResolvedStudy
from tunewise.text.suggest import lookup

# 15% of them are 6: trials of 6 steps found the rate that full runs found, trials of 5 steps did not (docs/results.md).
MIN_STEPS_FOR_SHORT_TRIALS = 40

# --- one arm


def keep_one_arm(study: StudySpec, only: str | None) -> StudySpec:
    """The study reduced to one arm. Raises SpecError if `only` does not name it."""
    if only is None and len(study.arms) > 1:
        raise SpecError(f"the study has several arms. Choose one with --only NAME: {', '.join(study.arms)}.")
    name = only or next(iter(study.arms))
    return study.replace(arms={name: lookup(study.arms, name, "arm")})


# --- task, placements, head arm


def resolve(study: StudySpec, data: DataSummary) -> ResolvedStudy:
    """The study with its task, an arm for every placement of `targets: auto`, and a `head` arm for a new head.

    Raises SpecError if the runs are too short for short trials.
    """
    return completed(study, data.task, data.arms, num_steps(study, data))


def resolve_as_planned(study: StudySpec, plan: StudyPlan) -> ResolvedStudy:
    """As `resolve`, from the plan of a study whose data is not prepared."""
    return completed(study, plan.task, {name: arm.tuned for name, arm in plan.arms.items()}, plan.work.num_steps)


def completed(study: StudySpec, task: Task, arms: Mapping[str, TrainableSummary], steps: int | None) -> ResolvedStudy:
    """The study with its task and the implied arms.

    `arms`: what each of them trains, those of every placement included; `steps`: of a run, None: not known.
    """
    open_arms = [name for name, method in study.arms.items() if method.has_open_targets]
    study = expand(study, {name: _placement_costs(name, arms) for name in open_arms})
    if study.tuning.search == "short" and steps is not None and steps < MIN_STEPS_FOR_SHORT_TRIALS:
        raise SpecError(
            f"tuning.search: short needs runs of at least {MIN_STEPS_FOR_SHORT_TRIALS} optimizer steps, but these have "
            f"{steps}. Remove it, or train longer (train.epochs)."
        )
    study = with_head_arm(study, task)
    return ResolvedStudy.model_validate({**study.model_dump(), "task": task})


def _placement_costs(name: str, arms: Mapping[str, TrainableSummary]) -> dict[str, int]:
    """Parameters of one rank by placement, of those that the model has."""
    found = {placement: arms.get(arm_name(name, placement)) for placement in PLACEMENTS}
    return {placement: tuned.rank_parameters for placement, tuned in found.items() if tuned and tuned.rank_parameters}


# --- tokens of a micro-batch


def settled(study: ResolvedStudy, plan: StudyPlan | None) -> ResolvedStudy:
    """The study with `micro_batch_tokens: auto` replaced by what the plan found; by the default without a plan."""
    return settled_with(study, plan.micro_batch_tokens if plan else TrainSpec().tokens_at_once)


def settled_with(study: ResolvedStudy, tokens: int | Literal["auto"]) -> ResolvedStudy:
    """The study with `micro_batch_tokens: auto` replaced by `tokens`."""
    if study.train.micro_batch_tokens != "auto":
        return study
    return study.replace(train=study.train.replace(micro_batch_tokens=tokens))


# --- ranks


def settle(study: ResolvedStudy, records: Sequence[RunRecord], ranks: Mapping[str, int]) -> ResolvedStudy:
    """The study with `rank: auto` replaced by the chosen ranks (desk/protocol/ranks.py), as far as they are known.

    An arm that becomes identical to another one is dropped.

    The search at the new rank starts where that of the highest rank ended. With alpha / rank the best rate hardly
    depends on the rank; otherwise it is proportional to sqrt(1 / (scale * rank)), as in `centre`.
    `records` are current.
    """
    rates = selected_rates(study, records)
    arms = dict(study.arms)
    for name, rank in ranks.items():
        searched = study.lora_arms[name]
        method = searched.at(rank)
        if twin(arms, name, method):
            del arms[name]
            continue
        shift = math.sqrt(searched.scale * searched.top_rank / (method.scale * rank))
        arms[name] = method.replace(learning_rate=float(f"{rates[name] * shift:.3g}"))
    return study.replace(arms=arms)


def twin(arms: Mapping[str, Method], name: str, method: LoraMethod) -> str | None:
    """The arm that is identical to the named one as `method` and replaces it; None: there is none."""
    wanted = same_arm(method)
    return next((other for other, arm in arms.items() if other != name and same_arm(arm) == wanted), None)
