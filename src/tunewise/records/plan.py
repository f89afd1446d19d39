"""What a study is expected to need: the plan of every arm, found before anything is loaded. Plain data, never torch."""

import hashlib
from typing import Literal

from tunewise.records.data import SplitSummary
from tunewise.records.tuned import Tuned
from tunewise.spec import Device, Frozen, Precision, StudySpec, Task, TrainSpec, canonical_json


class PeakMemory(Frozen):
    """Bytes of the tensors that are alive at the moment when a phase needs most, by what they are for."""

    weights: int  # with the bf16 copies of weights that learn
    gradients: int
    optimizer: int
    activations: int
    logits: int  # and their gradient

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


class Work(Frozen):
    """What is trained on and scored, as far as a plan needs it."""

    num_rows: int | None  # None: not known
    num_steps: int | None  # optimizer steps of a run
    batch_size: int  # examples of an optimizer step
    longest: int  # tokens of the longest training example
    tokens_per_row: float  # padding excluded
    splits: tuple[SplitSummary, ...]  # (): no data; every example is taken to have the largest length

    def steps_in(self, num_rows: int) -> int:
        """Optimizer steps over so many training examples."""
        return TrainSpec(batch_size=self.batch_size).steps_per_epoch(num_rows)


class Speed(Frozen):
    """How fast one arm trains and scores on the machine that was asked."""

    # steps: some were really done, with drawn weights; products: at the rate of bare matrix products, so at least this;
    # similar: from the steps of another arm, in proportion to the work
    source: Literal["steps", "products", "similar"]
    step_seconds: float  # a mean optimizer step
    score_seconds_per_token: float  # in the precision of training
    fp32_score_seconds_per_token: float
    peak_above_start_bytes: int | None  # of a process that did the step with most tokens; None: none did it
    resume_seconds: float | None = None  # more, of the steps that follow a scoring; None: not measured


class ArmPlan(Frozen):
    """What one arm will need."""

    tuned: Tuned
    micro_batches: tuple[tuple[int, int], ...]  # examples and tokens, padding included: the largest of the step planned
    is_packed: bool  # examples one after another, without padding
    step: PeakMemory | None  # of an optimizer step; None: the step of this model cannot be followed
    evaluation: PeakMemory | None  # of scoring in fp32
    flops_per_token: int | None  # of a training step, forward and backward; matrix products alone
    scoring_flops_per_token: int | None
    saved_bytes: int
    frozen_linear_weights: int  # which a quantized base would hold in 4 bits
    frozen_linear_bytes: int  # what they take as planned
    # tokens, padding included, of the largest micro-batch that fits beside what stays, all its examples as long as the
    # longest and no more of them than a step has; None: not even one example fits
    largest_micro_batch: int | None
    is_checked: bool  # on a small model of this architecture the plan's step and a real one did the same operations
    note: str | None = None  # why a figure is missing
    speed: Speed | None = None  # None: not asked for, or not on this machine


class StudySeconds(Frozen):
    """Wall-clock seconds of all runs of a study, one after another; without process starts, loading and saving."""

    least: float  # up to the first look, if no search goes on beyond the rates that it begins with
    most: float  # up to the first look, if every search goes to its cap
    second_look: float | None = None  # what it adds if every arm goes on to it; None: there is one look


# Of the memory: what a driver keeps and what allocation leaves unused is not planned.
TIGHT = 0.9
# What `micro_batch_tokens: auto` is at most: larger ones are not faster.
MOST_TOKENS: dict[Device, int] = {"cpu": 2048, "mps": 8192, "cuda": 16384}


class StudyPlan(Frozen):
    """What a study will need."""

    model: str
    model_type: str
    task: Task
    device: Device
    precision: Precision
    threads: int
    memory_bytes: int  # of the machine; the largest micro-batch was fitted into 90 % of it
    micro_batch_tokens: int  # as the study has it, or what `auto` is here
    work: Work
    arms: dict[str, ArmPlan]
    seconds: StudySeconds | None = None  # None: some arm's speed is not known, or the number of its steps


def plan_key(study: StudySpec) -> str:
    """8 hex digits: a hash of what the plan of a study depends on, its data and machine apart."""
    where_to_search = {"learning_rate", "rates"}
    arms = {name: arm.model_dump(mode="json", exclude=where_to_search) for name, arm in study.arms.items()}
    asked = [arms, study.train.model_dump(mode="json"), study.seed]
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:8]


def fitting_tokens(plan: StudyPlan) -> int:
    """The largest micro-batch, up to the planned one, with which the step of every arm fits; an example at least."""
    room = TIGHT * plan.memory_bytes
    fit = [
        plan.micro_batch_tokens if arm.step.total <= room else arm.largest_micro_batch or 0
        for arm in plan.arms.values()
        if arm.step
    ]
    return max(min(fit, default=plan.micro_batch_tokens), plan.work.longest)


class PlanRequest(Frozen):
    """For which machine a plan is made; None: for this one."""

    device: Device | None = None
    precision: Precision | None = None
    memory_bytes: int | None = None
