"""What a study is expected to need: the plan of every arm, made before anything is loaded. Plain data, never torch."""

import hashlib
from typing import Any, Literal

from tunewise.records.data import SplitSummary
from tunewise.records.tuned import TrainableSummary
from tunewise.spec import Device, Frozen, Precision, Price, StudySpec, Task, TrainSpec, canonical_json


class PeakMemory(Frozen):
    """Bytes of the live tensors at the peak of a phase, by purpose."""

    weights: int  # including the bf16 copies of trained weights
    gradients: int
    optimizer: int
    activations: int
    logits: int  # and their gradient

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


class Work(Frozen):
    """Sizes of the data that is trained on and scored, as a plan needs them."""

    num_rows: int | None  # None: not known
    num_steps: int | None  # optimizer steps of a run
    batch_size: int  # examples of an optimizer step
    longest: int  # tokens of the longest training example
    tokens_per_row: float  # padding excluded
    splits: tuple[SplitSummary, ...]  # (): no data; every example is assumed to have the largest length

    def steps_in(self, num_rows: int) -> int:
        """Optimizer steps over this many training examples."""
        return TrainSpec(batch_size=self.batch_size).steps_per_epoch(num_rows)


class Speed(Frozen):
    """Training and scoring speed of one arm on the machine of the request."""

    # steps: measured with random weights; products: from the rate of bare matrix products, so a lower bound; similar:
    # from the measured steps of another arm, scaled by the work
    source: Literal["steps", "products", "similar"]
    step_seconds: float  # mean optimizer step
    score_seconds_per_token: float  # in the precision of training
    fp32_score_seconds_per_token: float
    peak_above_start_bytes: int | None  # of a process that ran the step with most tokens; None: none did
    resume_seconds: float | None = None  # additional seconds of the steps that follow a scoring; None: not measured
    # Of an answer of samples.max_new_tokens tokens, so most answers take less. None: the study selects by no texts.
    write_seconds_per_row: float | None = None


class Checkpointed(Frozen):
    """An optimizer step with gradient checkpointing."""

    step: PeakMemory
    flops_per_token: int


class Gathered(Frozen):
    """Bytes of the weights of one phase if several devices divide them (FSDP2): each gathers a group when it computes.

    `layer`, `other` and `head` are what the largest group of each kind takes once gathered.
    """

    stored: int  # all parameters, which are divided
    whole: int  # buffers, which every device has
    layer: int
    layer_gradient: int  # of its trained parameters, in fp32
    other: int  # an embedding that is not tied to the head, a norm
    other_gradient: int
    head: int  # until the backward pass has ended, with autocast's bf16 copy
    head_gradient: int
    all: int  # what one pass over the model gathers
    trained: int  # of the parameters that are trained, in fp32


class Shards(Frozen):
    """What an arm needs on one of several devices, beside its `step`: see desk/planning/devices.py."""

    training: Gathered
    scoring: Gathered
    step_data: int  # activations and logits of a step, at their largest together
    scoring_data: int


class ArmPlan(Frozen):
    """Needs of one arm."""

    tuned: TrainableSummary
    micro_batches: tuple[tuple[int, int], ...]  # examples and tokens, padding included: of the largest step planned
    is_packed: bool  # examples concatenated without padding
    step: PeakMemory | None  # of an optimizer step; None: this model's step cannot be traced
    evaluation: PeakMemory | None  # of scoring in fp32
    checkpointed: Checkpointed | None = None  # None: the step fits as asked, or was asked with it
    shards: Shards | None = None  # None: several devices cannot make its runs together
    mapped: int = 0  # of the weights of a step: pages of the checkpoint's file, which every step reads
    loading: int | None = None  # bytes on the device while the base is loaded and stored; None: not known
    flops_per_token: int | None  # of a training step, forward and backward; only matrix products
    scoring_flops_per_token: int | None
    saved_bytes: int
    frozen_linear_weights: int  # weights that a quantized base would store in 4 bits
    frozen_linear_bytes: int  # bytes of these weights as planned
    # Tokens, padding included, of the largest micro-batch that fits next to the permanent tensors, if all its examples
    # are as long as the longest and no more than a step has. None: not even one example fits.
    largest_micro_batch: int | None
    is_checked: bool  # on a small model of this architecture, planned and real step ran the same operations
    note: str | None = None  # why a figure is missing
    speed: Speed | None = None  # None: not requested, or not for this machine


class StudySeconds(Frozen):
    """Wall-clock seconds of all runs of a study, one after another, without process starts, loading and saving."""

    least: float  # up to the first look, if no search is extended
    most: float  # up to the first look, if every search reaches its cap
    second_look: float | None = None  # added if every arm goes on to the last look; None: there is one look

    @property
    def longest(self) -> float:
        """If every search reaches its cap and every arm goes on to the last look."""
        return self.most + (self.second_look or 0.0)


class PlannedCosts(Frozen):
    """What a plan costs at the user's price, in its currency; the fields of `StudySeconds`. None: not known."""

    price: Price
    least: float | None = None
    most: float | None = None
    second_look: float | None = None
    epochs: dict[str, float]  # arm -> an epoch of optimizer steps; on another card a lower bound


# Share of the memory that is planned for; the driver and unused allocations take the rest.
TIGHT = 0.9
# Upper limit of `micro_batch_tokens: auto`: larger ones are not faster.
MOST_TOKENS: dict[Device, int] = {"cpu": 2048, "mps": 8192, "cuda": 16384}


class StudyPlan(Frozen):
    """Needs of a study."""

    model: str
    model_type: str
    task: Task
    device: Device
    precision: Precision
    threads: int
    memory_bytes: int  # of the machine; the largest micro-batch is fitted into 90% of it
    micro_batch_tokens: int  # as in the study, or the resolved value of `auto`
    work: Work
    arms: dict[str, ArmPlan]
    seconds: StudySeconds | None = None  # None: the speed of an arm or its number of steps is not known
    costs: PlannedCosts | None = None  # at the price of the moment, so never stored; None: no price was given


def plan_key(study: StudySpec) -> str:
    """8 hex digits: a hash of what the plan of a study depends on, except its data and machine."""
    where_to_search = {"learning_rate", "rates"}
    arms = {name: arm.model_dump(mode="json", exclude=where_to_search) for name, arm in study.arms.items()}
    asked: list[Any] = [arms, study.train.model_dump(mode="json"), study.seed]
    if study.select_by:  # the time of its texts is planned
        asked.append(study.samples.max_new_tokens)
    if study.machine.scoring != "exact":
        asked.append(study.machine.scoring)
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:8]


def fitting_tokens(plan: StudyPlan) -> int:
    """The largest micro-batch, up to the planned one, with which the step of every arm fits; at least one example."""
    room = TIGHT * plan.memory_bytes
    fit = [
        plan.micro_batch_tokens if arm.step.total <= room else arm.largest_micro_batch or 0
        for arm in plan.arms.values()
        if arm.step
    ]
    return max(min(fit, default=plan.micro_batch_tokens), plan.work.longest)


class PlanRequest(Frozen):
    """The machine for which a plan is made. None: this one."""

    device: Device | None = None
    precision: Precision | None = None
    memory_bytes: int | None = None


class Prospect(Frozen):
    """The chance that an arm which truly equals full is found as good, estimated on the validation set.

    The spread over units is that of the trials at the chosen rates. That over seeds is not known from one seed and
    counts as 0, so that the chances are upper bounds.
    """

    arm: str
    metric: str
    margin: float  # in units of the metric; of a share of the gain, the estimated gain counts
    unit_sd: float  # standard deviation of arm - full over units
    test_units: int  # number of test groups
    looks: tuple[int, ...]  # their numbers of seeds
    chances: tuple[float, ...]  # at each look
    smallest_margin: float | None  # that the last look resolves with 80%; None: none
    with_more_rows: float  # the chance at the last look with four times the test units
