"""A base whose frozen linear weights are stored in 4 bits (QLoRA, Dettmers et al. 2023, arXiv 2305.14314, section 3).

Storage and dequantization are those of bitsandbytes, the product is torch's, in the precision of every other arm: so an
arm on such a base computes what it would on the whole base with the rounded weights. The library's own layer does not:
its kernel for AVX-512 also rounds the scales, and only while the model is not training.
"""

from collections.abc import Collection
from functools import cache
from types import ModuleType
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import is_bitsandbytes_available

from tunewise.errors import SpecError
from tunewise.lab.weights.stored import StoredLinear, linear_of_body, replace_module
from tunewise.spec import Device, Quantization


@cache
def bitsandbytes() -> ModuleType:
    """The library. Raises SpecError if it is not installed."""
    if not is_bitsandbytes_available():
        raise SpecError("a base in 4 bits needs bitsandbytes, which is not installed: pip install 'tunewise[quant]'.")
    import bitsandbytes as library  # noqa: PLC0415 - optional, and slow to import

    return library


class QuantizedLinear(StoredLinear):
    """A linear layer whose weight is stored in 4 bits."""

    def __init__(self, linear: torch.nn.Module, kind: Quantization, device: Device) -> None:
        whole: torch.Tensor = linear.weight.data.t() if isinstance(linear, Conv1D) else linear.weight.data
        library, double = bitsandbytes(), kind == "nf4-double"
        packed, state = library.functional.quantize_4bit(
            whole.float().contiguous().to(device), quant_type="nf4", compress_statistics=double
        )
        weight = library.nn.Params4bit(  # the class by which peft and transformers recognize it
            packed, requires_grad=False, quant_state=state, blocksize=state.blocksize, compress_statistics=double,
            quant_type="nf4", quant_storage=packed.dtype, bnb_quantized=True,
        )  # fmt: skip
        super().__init__(whole.shape[0], whole.shape[1], weight, linear.bias)

    def matrix(self) -> torch.Tensor:
        """The dequantized weight, in fp32."""
        return dequantized(self.weight)


def dequantized(weight: Any) -> torch.Tensor:
    """The fp32 matrix that a packed weight stands for; shape (out, in)."""
    matrix: torch.Tensor = bitsandbytes().functional.dequantize_4bit(weight.data, weight.quant_state)
    return matrix


def quantize(model: PreTrainedModel, heads: Collection[str], kind: Quantization, device: Device) -> None:
    """Store all linear weights but those of `heads` (module names) in 4 bits, on `device`, one after another.

    Embeddings, norms, biases and experts that are stored as one tensor stay whole.
    """
    for name, module in linear_of_body(model, heads):
        replace_module(model, name, QuantizedLinear(module, kind, device))


def num_weights(parameter: torch.Tensor) -> int:
    """Number of weights that a parameter stands for; a packed one holds two in each byte."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()


def stored_bytes(num_weights: int, kind: Quantization) -> int:
    """Bytes of that many weights: 4 bits each, and a scale for every 64 of them: fp32, or 8 bits with `nf4-double`.

    The 8-bit scales have fp32 scales of their own, one for 256 of them (arXiv 2305.14314, section 3).
    """
    num_scales = num_weights / 64
    return round(num_weights / 2 + (num_scales * (1 + 4 / 256) if kind == "nf4-double" else 4 * num_scales))
