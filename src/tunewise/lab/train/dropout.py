"""Dropout on CPU with a quarter of the random numbers.

torch draws one from its serial generator for every element; here four elements share one of 64 bits. With BERT-sized
hidden states that was a sixth of a step (13 masks of 440 x 384 and 6 of attention: 20 ms, here 6). Other devices have
kernels of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from tunewise.lab.private import replaced

LEVELS = 2**16  # values of an element's bits: a probability is accurate to 1 / 131,072
TORCH_DROPOUT = F.dropout


@contextmanager
def quick_dropout() -> Iterator[None]:
    """Inside the block, callers of `torch.nn.functional.dropout`, such as `torch.nn.Dropout`, use the one below.

    A TorchFunctionMode would replace nothing, but torch consults it before every call: 2.3% of a LoRA step with the
    bundled base (`bench/dropout.py`).
    """
    with replaced(F, "dropout", dropout):
        yield


def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:  # noqa: A002
    """As `torch.nn.functional.dropout`: the same distribution, but not the same dropped elements.

    Elements are scaled by the exact probability with which they are kept, so that the mean does not change.
    """
    num_dropped = round(p * LEVELS)
    if input.device.type != "cpu" or inplace or not training or not 0 < num_dropped < LEVELS:
        return TORCH_DROPOUT(input, p, training, inplace)
    words = torch.empty((input.numel() + 3) // 4, dtype=torch.int64, device=input.device)
    bits = words.random_(-(2**63), None).view(torch.int16)[: input.numel()].view(input.shape)
    scale = LEVELS / (LEVELS - num_dropped)
    return input * (bits >= num_dropped - LEVELS // 2).to(input.dtype).mul_(scale)
