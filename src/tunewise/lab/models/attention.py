"""Attention for packed batches, and the faster kernel for short texts on CPU.

A packed batch is one row of tokens, example after example, without padding. All layers except attention treat every
token separately, so only attention and positions must know where an example begins. Attention lays the examples out as
padded rows and collects the real tokens again: no mask of all tokens against all is ever built. The padding comes after
everything that a causal mask shows; an encoder's attention gets the mask of the padded rows.

The kernels are implementations of transformers' AttentionInterface. Two index maps tell them where the examples are.
They are passed as the attention mask, because models hand a mask of four dimensions to their attention unchanged. Which
models do so is tested, not assumed (`packing.fit_attention`).

Shapes: B examples, L tokens of the longest one and T of the packed row (both a `common_size`), Q and K tokens of
queries and keys, H heads, D size of a head.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

Kernel = Literal["eager", "sdpa", "fastest"]
Options = dict[str, Any]
NAMES: dict[Kernel, str] = {"eager": "tunewise-eager", "sdpa": "tunewise-sdpa", "fastest": "tunewise-fastest"}

# In bf16 on CPU torch's fused kernel took 15 ms and matrix products took 2.3 (8 texts of 40 tokens, 12 heads of 64,
# forward and backward); 70 and 34 for texts of 200 tokens. In fp32 both take about the same time. For long texts the
# fused kernel is faster, and its memory does not grow with the square of the length.
MAX_EAGER_TOKENS = 256


def register_kernels() -> None:
    """Register the kernels with transformers under `NAMES`; repeating it changes nothing."""
    for kernel, name in NAMES.items():
        AttentionInterface.register(name, partial(_attention, kernel))
        AttentionMaskInterface.register(name, sdpa_mask)


def common_size(size: int) -> int:
    """`size` rounded up, to one of 32 numbers per power of two: by 1.6% on average.

    On CPU the first product of a shape compiles a kernel, which took 0.2 to 0.6 ms when the product itself took 0.03 to
    2, and stays in memory. If no two steps had the same size, every step would pay for its own kernels.
    """
    step = max(1 << (size - 1).bit_length() >> 5, 1)
    return -(-size // step) * step


def pack_places(lengths: Sequence[int]) -> torch.Tensor:
    """(1, 2, B, L): for every place of the padded rows its token, then for every token its place.

    Padding repeats the tokens that follow. The second map fills the first T of its B x L entries; those after the
    examples have the place of the first token.
    """
    width, num_tokens = common_size(max(lengths)), sum(lengths)
    starts = [sum(lengths[:b]) for b in range(len(lengths))]
    tokens = [min(start + t, num_tokens - 1) for start in starts for t in range(width)]
    places = [b * width + t for b, length in enumerate(lengths) for t in range(length)]
    places += [0] * (len(tokens) - num_tokens)
    return torch.tensor([tokens, places]).reshape(1, 2, len(lengths), width)


def _attention(
    kernel: Kernel,
    module: torch.nn.Module,
    query_BHQD: torch.Tensor,
    key_BHKD: torch.Tensor,
    value_BHKD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """(B, Q, H, D), as transformers calls it. The mask: None, True for visible keys, or the output of `pack_places`."""
    rows = (query_BHQD, key_BHKD, value_BHKD)
    if attention_mask is None or attention_mask.dtype == torch.bool:
        return _attend(kernel, module, rows, attention_mask, options), None
    num_examples, width = attention_mask.shape[2:]
    tokens, places = attention_mask[0].flatten(1)
    places = places[: query_BHQD.shape[2]]
    unpacked = tuple(
        packed.squeeze(0).transpose(0, 1).index_select(0, tokens).unflatten(0, (num_examples, width)).transpose(1, 2)
        for packed in rows
    )
    mask = None if getattr(module, "is_causal", True) else _is_token(places, num_examples, width)
    output_BLHD = _attend(kernel, module, unpacked, mask, options)
    return output_BLHD.flatten(0, 1).index_select(0, places)[None], None


def _is_token(places_T: torch.Tensor, num_examples: int, width: int) -> torch.Tensor:
    """(B, 1, 1, L): False on padding."""
    mask = torch.zeros(num_examples * width, dtype=torch.bool, device=places_T.device)
    return mask.index_fill(0, places_T, True).reshape(num_examples, 1, 1, width)


def _attend(
    kernel: Kernel, module: torch.nn.Module, rows: tuple[torch.Tensor, ...], mask: torch.Tensor | None, options: Options
) -> torch.Tensor:
    query_BHQD, key_BHKD, value_BHKD = rows
    forward: Callable[..., tuple[torch.Tensor, Any]] = sdpa_attention_forward
    if kernel == "eager" or (kernel == "fastest" and _is_short_in_bf16(query_BHQD, key_BHKD)):
        # every family has its own matrix products, with its soft caps and sinks
        forward = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
        mask = _additive(module, query_BHQD, key_BHKD, mask)
    return forward(module, query_BHQD, key_BHKD, value_BHKD, mask, **options)[0]


def _is_short_in_bf16(query_BHQD: torch.Tensor, key_BHKD: torch.Tensor) -> bool:
    num_tokens: int = max(query_BHQD.shape[2], key_BHKD.shape[2])
    in_bf16 = query_BHQD.device.type == "cpu" and _computed_in(query_BHQD) == torch.bfloat16
    return in_bf16 and num_tokens <= MAX_EAGER_TOKENS


def _computed_in(query: torch.Tensor) -> torch.dtype:
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def _additive(
    module: torch.nn.Module, query_BHQD: torch.Tensor, key_BHKD: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor | None:
    """The mask as an additive term of matrix products: 0 for visible keys, elsewhere the lowest number."""
    num_queries, num_keys = query_BHQD.shape[2], key_BHKD.shape[2]
    if mask is None and (num_queries == 1 or not getattr(module, "is_causal", True)):
        return None
    dtype, device = _computed_in(query_BHQD), query_BHQD.device
    if mask is None:
        mask = torch.ones(1, 1, num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)
    return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, torch.finfo(dtype).min)
