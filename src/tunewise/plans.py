"""What a study is expected to need: the plan of every arm, found before anything is loaded. Plain data, never torch."""

from tunewise.records import SplitSummary, Tuned
from tunewise.spec import Device, Frozen, Precision, Task


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


class ArmPlan(Frozen):
    """What one arm will need."""

    tuned: Tuned
    micro_batches: tuple[tuple[int, int], ...]  # examples and tokens, padding included: the largest of the step planned
    is_packed: bool  # examples one after another, without padding
    step: PeakMemory | None  # of an optimizer step; None: the step of this model cannot be followed
    evaluation: PeakMemory | None  # of scoring in fp32
    flops_per_token: int | None  # of a training step, forward and backward; matrix products alone
    saved_bytes: int
    frozen_linear_weights: int  # which a quantized base would hold in 4 bits
    frozen_linear_bytes: int  # what they take as planned
    # tokens, padding included, of the largest micro-batch that fits beside what stays, all its examples as long as the
    # longest and no more of them than a step has; None: not even one example fits
    largest_micro_batch: int | None
    is_checked: bool  # on a small model of this architecture the plan's step and a real one did the same operations
    note: str | None = None  # why a figure is missing


class StudyPlan(Frozen):
    """What a study will need."""

    model: str
    model_type: str
    task: Task
    device: Device
    precision: Precision
    threads: int
    memory_bytes: int  # that the largest micro-batch was fitted into
    work: Work
    arms: dict[str, ArmPlan]


class PlanRequest(Frozen):
    """For which machine a plan is made; None: for this one."""

    device: Device | None = None
    precision: Precision | None = None
    memory_bytes: int | None = None
