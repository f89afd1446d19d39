"""What a plan follows: an arm's model without weights, with the kernels and the loop that a run gives it."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedConfig

from tunewise.errors import SpecError
from tunewise.lab.activations import fuse_activations
from tunewise.lab.attention import NAMES
from tunewise.lab.data.batching import Batch, Batching
from tunewise.lab.methods import Method, build_method
from tunewise.lab.models import inner_model
from tunewise.lab.packing import REFUSALS as REFUSED_TO_RUN
from tunewise.lab.packing import fit_attention
from tunewise.lab.plan import dry
from tunewise.lab.plan.blank import blank_base, give_storage, small_config, with_small_values, without_values
from tunewise.lab.plan.operators import Operators
from tunewise.lab.plan.workload import assumed_examples
from tunewise.lab.train.loop import Loop
from tunewise.lab.train.optim import make_optimizer, parameter_groups
from tunewise.lab.train.precision import assert_masters, store_frozen_weights
from tunewise.spec import Attention, Device, Precision, Task, TrainSpec
from tunewise.spec import Method as MethodSpec

RATE = 1e-5  # any: it changes no shape

# How a model that was not made for it fails to be built without weights, or followed: it looks at values, or at sizes
# of its own.
REFUSALS = (*REFUSED_TO_RUN, AssertionError)


@dataclass(frozen=True)
class Setting:
    """What all arms of a plan share."""

    config: PreTrainedConfig
    task: Task
    num_labels: int
    heads: tuple[str, ...] | None  # modules that learn in every arm; None: not known
    train: TrainSpec
    num_steps: int
    device: Device
    precision: Precision
    attention: Attention | None

    @property
    def small(self) -> "Setting":
        """The same for a model of this architecture that runs in milliseconds."""
        return replace(self, config=small_config(self.config))


@dataclass(frozen=True)
class Kernels:
    """What a run finds out about a model when it loads it."""

    attention: str | None  # a name that transformers knows; None: the one that the model comes with
    max_packed_length: int  # examples of up to so many tokens are packed

    def batching(self, train: TrainSpec) -> Batching:
        """How a run cuts its steps; what fills the padding changes no shape."""
        return Batching(train.micro_batch_tokens, 0, self.max_packed_length)


@dataclass(frozen=True)
class Subject:
    """A model as an arm trains it, still on the meta device and in fp32."""

    model: torch.nn.Module
    method: Method
    heads: tuple[str, ...]

    def take_up(self, kernels: Kernels) -> "Subject":
        """With the kernels of a run."""
        fuse_activations(self.model)
        if kernels.attention is not None:
            inner_model(self.model).set_attn_implementation(kernels.attention)
        return self


def build(setting: Setting, spec: MethodSpec) -> Subject:
    """The arm's model. Raises SpecError for what cannot be built."""
    base = blank_base(setting.config, setting.task, setting.num_labels, setting.heads)
    if setting.attention is not None:
        base.model.set_attn_implementation(setting.attention)
    method = build_method(spec, setting.task, setting.num_steps)
    with torch.device("meta"):
        model = method.prepare(base)
    return Subject(model, method, base.head_modules)


def try_kernels(setting: Setting, spec: MethodSpec) -> Kernels | None:
    """The kernels that a run would give this arm, tried as there, on a small model of the same architecture.

    None: no small one can be made, or it cannot be run.
    """
    try:
        subject = build(setting.small, spec)
        fuse_activations(subject.model)
        give_storage(subject.model, with_small_values)
        max_packed_length = fit_attention(subject.model, setting.attention, setting.task)
    except (SpecError, *REFUSALS):
        return None
    name = inner_model(subject.model).config._attn_implementation
    # on a GPU the faster of our kernels is always the fused one; the plan's tensors are on a fake CPU
    is_fused = setting.device != "cpu" and name == NAMES["fastest"]
    return Kernels(NAMES["sdpa"] if is_fused else name, max_packed_length)


def begin_training(subject: Subject, setting: Setting, rate_factors: Iterable[float] = ()) -> Loop:
    """The loop of a run, the model stored as in a run; the rate changes nothing."""
    if setting.train.gradient_checkpointing:
        inner_model(subject.model).gradient_checkpointing_enable({"use_reentrant": False})
    store_frozen_weights(subject.model, setting.precision, subject.method.fp32_modules)
    assert_masters(subject.model)
    groups = parameter_groups(subject.model, subject.heads, setting.train, RATE, RATE if subject.heads else None)
    return Loop(
        optimizer=make_optimizer(groups, setting.train, "cpu"),
        rate_factors=rate_factors,
        clip_norm=setting.train.clip_norm,
        device="cpu",
        precision=setting.precision,
        after_step=subject.method.after_step,
    )


def is_followed(setting: Setting, spec: MethodSpec, kernels: Kernels) -> bool:
    """Whether a real step of a small model of this architecture does the same operations as the plan's step of it."""
    # padded, a micro-batch with padding and one without: models go different ways with them
    examples = [example for length in (8, 5, 4) for example in assumed_examples(setting.task, 1, length)]
    train = setting.train.replace(batch_size=3, micro_batch_tokens=16)
    batches = list(kernels.batching(train).batches(examples, range(3)))
    try:
        real, planned = (operators(setting.small, spec, kernels, batches, is_real=real) for real in (True, False))
    except (SpecError, *REFUSALS):  # this architecture cannot be made small, or the arm does not suit a small one
        return False
    return real == planned


def operators(
    setting: Setting, spec: MethodSpec, kernels: Kernels, micro_batches: Sequence[Batch], *, is_real: bool
) -> list[str]:
    """The operations of one step of a run, really done or followed."""
    subject, seen = build(setting, spec).take_up(kernels), Operators()
    with nullcontext() if is_real else dry.no_storage() as mode:
        give_storage(subject.model, with_small_values if is_real else without_values)
        loop = begin_training(subject, setting)
        dry.begin(loop)
        batches = [batch if mode is None else dry.bare(batch, mode) for batch in micro_batches]
        with seen:
            dry.step(subject.model, batches, loop)
    return seen.seen
