"""Models of a plan: an arm's model without weights, with the kernels and the loop of a run."""

from dataclasses import dataclass, replace
from itertools import repeat

import torch
from transformers import PreTrainedConfig

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching
from tunewise.lab.methods import Method, build_method
from tunewise.lab.models.fusing import fuse
from tunewise.lab.models.load import inner_model
from tunewise.lab.plan.meta_model import MakeTensor, blank_base, give_storage, small_config
from tunewise.lab.train.begin import make_trainable
from tunewise.lab.train.loop import Loop
from tunewise.lab.train.optim import LearningRates
from tunewise.lab.weights.narrow import keeps_weights
from tunewise.lab.weights.quantized import quantize
from tunewise.spec import TASKS, Attention, Device, Precision, Scoring, Task, TrainSpec
from tunewise.spec import Method as MethodSpec

RATE = 1e-5  # any value: it changes no shape


@dataclass(frozen=True)
class PlanContext:
    """Common inputs of the plans of all arms."""

    config: PreTrainedConfig
    task: Task
    num_labels: int
    heads: tuple[str, ...] | None  # modules trained in every arm; None: not known
    train: TrainSpec
    num_steps: int
    device: Device
    precision: Precision
    attention: Attention | None
    scoring: Scoring = "exact"
    stored: Precision | None = None  # of the checkpoint's tensors; None: others, several or not known

    def is_narrow_for(self, method: MethodSpec) -> bool:
        """Whether a run of the method keeps linear weights in the bf16 of the checkpoint (weights/narrow.py)."""
        is_possible = self.stored == self.precision == "bf16" and not TASKS[self.task].has_classes
        return is_possible and keeps_weights(method)

    @property
    def small(self) -> "PlanContext":
        """The same for a model of this architecture that runs in milliseconds."""
        return replace(self, config=small_config(self.config))


@dataclass(frozen=True)
class Kernels:
    """Properties of a model that a run determines when it loads it."""

    attention: str | None  # a name that transformers knows; None: the model's default
    max_packed_length: int  # longest example that is packed, in tokens

    def batching(self, train: TrainSpec) -> Batching:
        """Batching of a run; the padding token changes no shape."""
        return Batching(train.tokens_at_once, 0, self.max_packed_length)


@dataclass(frozen=True)
class PlannedModel:
    """A model as an arm trains it, still on the meta device and in fp32."""

    model: torch.nn.Module
    method: Method
    heads: tuple[str, ...]

    def take_up(self, kernels: Kernels) -> "PlannedModel":
        """The same model with the kernels of a run."""
        fuse(self.model)
        if kernels.attention is not None:
            inner_model(self.model).set_attn_implementation(kernels.attention)
        return self


def build(setting: PlanContext, spec: MethodSpec, made: MakeTensor | None = None) -> PlannedModel:
    """The arm's model. Raises SpecError if it cannot be built.

    `made` gives the tensors of a base that is quantized as in a run; None: on the meta device, and whole.
    """
    base = blank_base(setting.config, setting.task, setting.num_labels, setting.heads)
    if setting.attention is not None:
        base.model.set_attn_implementation(setting.attention)
    method = build_method(spec, setting.task, setting.num_steps)
    if made is not None and spec.quantized is not None:
        give_storage(base.model, made)
        quantize(base.model, base.head_modules, spec.quantized, setting.device)
    with torch.device("meta" if made is None else setting.device):
        model = method.prepare(base)
    return PlannedModel(model, method, base.head_modules)


def begin_training(subject: PlannedModel, setting: PlanContext, device: Device = "cpu") -> Loop:
    """Loop of a run, the model stored as in a run; the learning rate does not matter."""
    rates, compute = LearningRates(RATE, RATE if subject.heads else None), Compute(device, setting.precision)
    prepared = (subject.model, subject.method)
    return Loop(
        optimizer=make_trainable(prepared, subject.heads, setting.train, rates, compute),
        rate_factors=repeat(1.0),
        clip_norm=setting.train.clip_norm,
        compute=compute,
        after_step=subject.method.after_step,
    )
