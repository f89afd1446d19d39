"""How fast this machine multiplies the matrices of a workload: the ceiling of any training step.

Floating-point operations of a step, 2 for a multiply-add: every linear layer costs 2 M N a token in the forward pass,
as much again for the gradient of its input, and as much again for that of its weights where they learn; the head costs
the same on supervised tokens alone. Attention's own products, norms and activations are left out, so the ceiling lies a
little above what can be reached.

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
    shapes: Counter[tuple[int, int, int]] = Counter()
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            rows = num_head_rows if module is head else num_tokens
            num_out, num_in = module.weight.shape if isinstance(module, torch.nn.Linear) else module.weight.shape[::-1]
            shapes[rows, num_out, num_in] += 1
    flops = seconds = 0.0
    for (rows, num_out, num_in), count in shapes.items():
        x_TN = torch.randn(rows, num_in, dtype=dtype)
        weight_MN = torch.randn(num_out, num_in, dtype=dtype)
        gradient_TM = torch.randn(rows, num_out, dtype=dtype)
        products: list[Callable[[], torch.Tensor]] = [
            lambda x=x_TN, w=weight_MN: x @ w.T,
            lambda g=gradient_TM, w=weight_MN: g @ w,
        ]
        if trains_all:
            products.append(lambda x=x_TN, g=gradient_TM: g.T @ x)
        for product in products:
            flops += count * 2.0 * rows * num_out * num_in
            seconds += count * _seconds(product)
    return Ceiling(flops, seconds)


def _seconds(product: Callable[[], torch.Tensor], repeats: int = 7) -> float:
    product()
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        product()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)
