"""Bases whose checkpoint is bf16: frozen linear weights stay as they are stored, half as large as in fp32.

A number that was stored in bf16 is the same in fp32, so a layer that widens its weight for every product computes what
it would with a weight in fp32. The largest weight is in fp32 for a moment, never all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from transformers import PreTrainedModel

from tunewise.lab.models.folder import checkpoint
from tunewise.lab.weights.stored import StoredLinear, linear_of_body, replace_module
from tunewise.spec import BaseMethod, LoraMethod, Method, Precision

PRECISIONS: dict[str, Precision] = {"BF16": "bf16", "F32": "fp32"}  # as safetensors names them


class NarrowLinear(StoredLinear):
    """A linear layer whose weight stays in bf16."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__(linear.out_features, linear.in_features, linear.weight, linear.bias)
        linear.weight.requires_grad_(False)

    def matrix(self) -> torch.Tensor:
        """The weight as it is stored."""
        weight: torch.Tensor = self.weight.data
        return weight


def keeps_weights(method: Method) -> bool:
    """True if neither training nor the start of the method reads or changes a frozen linear weight."""
    return isinstance(method, BaseMethod) or (isinstance(method, LoraMethod) and method.variant in ("plain", "rslora"))


def stored_precision(source: str, name: str) -> Precision | None:
    """Type of the tensors in the model's checkpoint; None: another one, or several.

    Raises ModelError if it has no such files.
    """
    found = set()
    for file in checkpoint(source, name):
        with safe_open(file, framework="pt") as tensors:
            found |= {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
    return PRECISIONS.get(found.pop()) if len(found) == 1 else None


def is_stored_in_bf16(source: str, name: str) -> bool:
    """True if every tensor of the model's checkpoint is bf16. Raises ModelError if it has no such files."""
    return stored_precision(source, name) == "bf16"


def keep_narrow(model: PreTrainedModel, kind: Any, trust_remote_code: bool) -> None:
    """Make a model that was loaded in bf16 an fp32 one, tensor by tensor, but for the linear weights of its body.

    Buffers are taken from a model that was built in fp32, because some are computed in the type of the load.
    """
    with init_empty_weights(include_buffers=False):
        built = kind.from_config(model.config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    for name, buffer in built.named_buffers():
        holder, _, own = name.rpartition(".")
        getattr(model.get_submodule(holder), own).data = buffer.data
    for name, module in linear_of_body(model):
        if type(module) is torch.nn.Linear:
            replace_module(model, name, NarrowLinear(module))
    widen(model)
    model.config.dtype = torch.float32


def widen(model: torch.nn.Module) -> None:
    """All weights in fp32 but those that are stored in fewer bits on purpose."""
    kept = {id(module.weight) for module in model.modules() if isinstance(module, StoredLinear)}
    for parameter in model.parameters():
        if id(parameter) not in kept and parameter.is_floating_point():
            parameter.data = parameter.data.float()


@contextmanager
def as_if_wide(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block, narrow weights have the type of wide ones, and no values: peft gives adapters that type."""
    narrow = [module for module in model.modules() if isinstance(module, NarrowLinear)]
    kept = [module.weight.data for module in narrow]
    for module in narrow:
        module.weight.data = torch.empty(1, device=module.weight.device).expand(module.weight.shape)
    try:
        yield
    finally:
        for module, weight in zip(narrow, kept, strict=True):
            module.weight.data = weight
