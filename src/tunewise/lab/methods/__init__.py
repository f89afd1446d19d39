"""Tuning methods. A method never changes the training loop."""

import torch

from tunewise.lab.methods.base import Method as Method
from tunewise.lab.methods.full import Full, Head
from tunewise.lab.methods.peft_methods import AnyPeft, Lora, rank_parameters
from tunewise.lab.methods.reallocating import REALLOCATING
from tunewise.lab.weights.quantized import num_weights
from tunewise.records import TrainableSummary
from tunewise.spec import FullMethod, HeadMethod, LoraMethod, PeftMethod, Task
from tunewise.spec import Method as MethodSpec


def build_method(spec: MethodSpec, task: Task, num_steps: int) -> Method:
    """Method that `spec` describes (not for base and existing, which train nothing)."""
    if isinstance(spec, FullMethod):
        return Full(spec)
    if isinstance(spec, HeadMethod):
        return Head()
    if isinstance(spec, LoraMethod):
        return Lora(spec, task)
    assert isinstance(spec, PeftMethod), f"{spec.method} trains nothing"
    return REALLOCATING.get(spec.type.upper(), AnyPeft)(spec, task, num_steps)


def describe(model: torch.nn.Module, method: Method) -> TrainableSummary:
    """What is trained in a prepared model. Totals include adapters, as in peft; tied weights count once."""
    return TrainableSummary(
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        total_parameters=sum(num_weights(p) for p in model.parameters()),
        scale=method.scale,
        num_target_modules=None if method.targets is None else len(method.targets.names),
        num_expert_tensors=0 if method.targets is None else len(method.targets.experts),
        linear_share=None if method.targets is None else method.targets.linear_share,
        rank_parameters=rank_parameters(model) or None,
        parameter_groups=(),
        learned_dtypes=tuple(sorted({f"{p.dtype}".split(".")[-1] for p in model.parameters() if p.requires_grad})),
    )
