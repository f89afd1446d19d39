"""Linear layers whose frozen weight is stored in fewer bits than it is multiplied in."""

from abc import abstractmethod
from collections.abc import Collection, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from tunewise.lab.models.class_order import LINEAR


class StoredLinear(torch.nn.Linear):  # type: ignore[misc]
    """A frozen linear layer with a stored weight; its bias, if any, stays as it is."""

    def __init__(self, out_features: int, in_features: int, weight: torch.nn.Parameter, bias: Any) -> None:
        super().__init__(in_features, out_features, bias=False, device="meta")
        self.weight, self.bias = weight, bias

    @abstractmethod
    def matrix(self) -> torch.Tensor:
        """The weight that the stored one stands for; shape (out, in)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X W^T + b, in the precision of autocast or else of `x`."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        product: torch.Tensor = _Product.apply(x.to(dtype), bias, self)
        return product


class _Product(torch.autograd.Function):  # type: ignore[misc]
    """A linear layer that keeps the stored weight for its gradient, and takes the matrix from it once more."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, layer: StoredLinear) -> torch.Tensor:
        ctx.layer = layer
        return torch.nn.functional.linear(x, layer.matrix().to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_x = gradient @ ctx.layer.matrix().to(gradient.dtype) if ctx.needs_input_grad[0] else None
        return of_x, gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None, None


def linear_of_body(model: PreTrainedModel, heads: Collection[str] = ()) -> Iterator[tuple[str, torch.nn.Module]]:
    """Name and module of every linear layer but the output layer, `heads` (module names), and those tied to embeddings.

    The modules may be replaced meanwhile.
    """
    output = model.get_output_embeddings()
    tied = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    for name, module in list(model.named_modules()):
        is_head = module is output or any(name == head or name.startswith(f"{head}.") for head in heads)
        if isinstance(module, LINEAR) and not is_head and id(module.weight) not in tied:
            yield name, module


def replace_module(model: torch.nn.Module, name: str, module: torch.nn.Module) -> None:
    """Put `module` in the place of the one of this full name."""
    holder, _, own = name.rpartition(".")
    setattr(model.get_submodule(holder), own, module)
