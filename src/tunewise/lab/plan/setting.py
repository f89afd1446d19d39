"""What a plan follows: an arm's model without weights, with the kernels and the loop that a run gives it."""

from dataclasses import dataclass, replace
from itertools import repeat

import torch
from transformers import PreTrainedConfig

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching
from tunewise.lab.methods import Method, build_method
from tunewise.lab.models.fusing import fuse
from tunewise.lab.models.load import inner_model
from tunewise.lab.plan.meta_model import blank_base, small_config
from tunewise.lab.train.begin import ready_to_train
from tunewise.lab.train.loop import Loop
from tunewise.lab.train.optim import LearningRates
from tunewise.spec import Attention, Device, Precision, Task, TrainSpec
from tunewise.spec import Method as MethodSpec

RATE = 1e-5  # any: it changes no shape


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
        return Batching(train.tokens_at_once, 0, self.max_packed_length)


@dataclass(frozen=True)
class Subject:
    """A model as an arm trains it, still on the meta device and in fp32."""

    model: torch.nn.Module
    method: Method
    heads: tuple[str, ...]

    def take_up(self, kernels: Kernels) -> "Subject":
        """With the kernels of a run."""
        fuse(self.model)
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


def begin_training(subject: Subject, setting: Setting, device: Device = "cpu") -> Loop:
    """The loop of a run, the model stored as in a run; the rate changes nothing."""
    rates, compute = LearningRates(RATE, RATE if subject.heads else None), Compute(device, setting.precision)
    prepared = (subject.model, subject.method)
    return Loop(
        optimizer=ready_to_train(prepared, subject.heads, setting.train, rates, compute),
        rate_factors=repeat(1.0),
        clip_norm=setting.train.clip_norm,
        compute=compute,
        after_step=subject.method.after_step,
    )
