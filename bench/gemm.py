"""How fast this machine multiplies the matrices of a workload: the ceiling of any training step.

Floating-point operations of a step, 2 for a multiply-add: every linear layer costs 2 M N a token in the forward pass,
as much again for the gradient of its input, and as much again for that of its weights where they learn; the head costs
the same on supervised tokens alone. Attention's own products, norms and activations are left out, so the ceiling lies a
little above what can be reached. Every layer has a weight of its own, as in the model: were one weight multiplied again
and again, it would lie in the processor's cache, where a step never finds it.

Shapes: T tokens of a step, M outputs, N inputs.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Ceiling:
    """What the bare products of one step cost."""

    flops: float
    seconds: float

    @property
    def rate(self) -> float:
        """FLOP/s of the bare products."""
        return self.flops / self.seconds


def ceiling(
    model: torch.nn.Module, num_tokens: int, num_head_rows: int, trains_all: bool, dtype: torch.dtype
) -> Ceiling:
    """Of a step over `num_tokens` tokens without padding, the head on `num_head_rows` of them.

    `trains_all`: weights learn themselves; else adapters do, whose own small products are left out.
    """
    head = model.get_output_embeddings()
    layers: Counter[tuple[int, int, int, bool]] = Counter()
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            rows, is_transposed = num_head_rows if module is head else num_tokens, isinstance(module, Conv1D)
            num_out, num_in = module.weight.shape[::-1] if is_transposed else module.weight.shape
            layers[rows, num_out, num_in, is_transposed] += 1
    flops = seconds = 0.0
    for (rows, num_out, num_in, is_transposed), count in layers.items():
        x_TN, gradient_TM = torch.randn(rows, num_in, dtype=dtype), torch.randn(rows, num_out, dtype=dtype)
        stored = [torch.randn(num_in, num_out).to(dtype) for _ in range(count)]  # Conv1D's way, or Linear's
        weights_NM = stored if is_transposed else [w.reshape(num_out, num_in).T for w in stored]
        products: list[Callable[[torch.Tensor], torch.Tensor]] = [
            lambda w_NM, x=x_TN: x @ w_NM,
            lambda w_NM, g=gradient_TM: g @ w_NM.T,
        ]
        if trains_all:
            products.append(lambda w_NM, x=x_TN, g=gradient_TM: x.T @ g)
        for product in products:
            flops += count * 2.0 * rows * num_out * num_in
            seconds += _seconds(product, weights_NM)
    return Ceiling(flops, seconds)


def _seconds(product: Callable[[torch.Tensor], torch.Tensor], weights: list[torch.Tensor], repeats: int = 7) -> float:
    """Of all these products, one after the other; the median of some repeats."""
    found = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        for weight in weights:
            product(weight)
        found.append(time.perf_counter() - begin)
    return statistics.median(found[1:])
