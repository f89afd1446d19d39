"""Number of tokens that a model reads at once, found by trying the model instead of a list of families.

A configuration gives the number of positions, not how many of them a text can use: RoBERTa, MPNet, Longformer and
others start after the padding index, so their first two are never used.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig

from tunewise.lab.models.library_errors import quiet_transformers
from tunewise.lab.plan.meta_model import give_storage, small_config, with_small_values
from tunewise.lab.private import TorchDispatchMode

UNBOUNDED = 1_000_000  # tokens, if nothing sets a limit
SHORT, LONG = 3, 7  # tokens of the two test texts; any two lengths work
MOST_TRIED = 1_024  # tokens of the longest test text: a small model takes half a second for it
# Errors of a model that cannot be built small, or cannot read a text of some length.
REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def context_length(config: PreTrainedConfig) -> int:
    """Most tokens that the model can read at once; a large number if nothing sets a limit."""
    claimed = _claimed(config)
    return min(claimed, _tried(config, claimed))


def _claimed(config: PreTrainedConfig) -> int:
    text = config.get_text_config()
    named = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((length for length in named if isinstance(length, int) and length > 0), UNBOUNDED)


def _tried(config: PreTrainedConfig, claimed: int) -> int:
    """Most tokens that a small model of this configuration reads; `claimed` if none can be built."""
    try:
        model = _small_model(config)
        highest = [_highest_positions(model, length) for length in (SHORT, LONG)]
    except REFUSALS:
        return claimed
    bounds = [
        rows - (last - LONG + 1)
        for key, (last, rows) in highest[1].items()
        if key in highest[0] and last - highest[0][key][0] == LONG - SHORT
    ]
    return _longest(model, min([claimed, *bounds]))


def _small_model(config: PreTrainedConfig) -> torch.nn.Module:
    small = small_config(config)
    text = small.get_text_config()
    padding = getattr(text, "pad_token_id", None) or 0
    if padding >= text.vocab_size:  # the vocabulary must grow, because the padding id decides where positions begin
        text.vocab_size = config.get_text_config().vocab_size
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        with torch.device("meta"):
            model = AutoModel.from_config(small, dtype=torch.float32)
        give_storage(model, with_small_values)
    return model.eval()


class _Lookups(TorchDispatchMode):  # type: ignore[misc]
    """Records, for every table with one row per token, its highest row used and its size."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, tuple[int, int]] = {}  # address of the table in memory -> highest row used, rows

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run every operation unchanged."""
        if func is torch.ops.aten.embedding.default:
            table, rows = args[0], args[1]
            if rows.numel() == rows.shape[-1]:  # relative positions are looked up for pairs of tokens
                last = max(int(rows.max()), self.found.get(table.data_ptr(), (0, 0))[0])
                self.found[table.data_ptr()] = (last, table.shape[0])
        return func(*args, **(kwargs or {}))


def _highest_positions(model: torch.nn.Module, length: int) -> dict[int, tuple[int, int]]:
    lookups = _Lookups()
    with lookups:
        _read(model, length)
    return lookups.found


@torch.no_grad()
def _read(model: torch.nn.Module, length: int) -> None:
    """Read one text that repeats a token other than the padding."""
    padding = model.config.get_text_config().pad_token_id
    ids = torch.full((1, length), next(token for token in (5, 6) if token != padding))
    model(input_ids=ids, attention_mask=torch.ones_like(ids))


def _longest(model: torch.nn.Module, length: int) -> int:
    """Most tokens up to `length` that the model reads without an error; lengths beyond the tested ones are assumed."""

    def reads(tokens: int) -> bool:
        try:
            _read(model, tokens)
        except REFUSALS:
            return False
        return True

    if length > MOST_TRIED or reads(length):
        return length
    good, bad = LONG, length
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if reads(middle) else (good, middle)
    return good
