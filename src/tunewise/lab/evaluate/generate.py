"""Greedy text for many prompts at once, identical to one at a time.

Prompts of a batch are padded on the left, so that all continue at the same column. The attention mask hides the
padding, and positions count from each prompt's own first token, so padding cannot change the text.

Shapes: B prompts, T tokens of the longest one, N tokens written at most.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from tunewise.lab.models.load import inner_model, model_source, padding_id
from tunewise.lab.private import has_own_generation_file


@dataclass(frozen=True)
class Generated:
    """Text that a model wrote after one prompt."""

    text: str
    num_tokens: int  # tokens written, without the end-of-text token
    stopped: bool  # True: the model ended the text; False: truncated at the limit


@torch.no_grad()
def generate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    max_tokens: int,
) -> list[Generated]:
    """Greedy continuation of every prompt, up to a token that ends it, in the given order.

    `max_tokens`: of a batch, padding and new tokens included (at least one prompt); it changes speed and memory, not
    the text.
    """
    model.eval()
    base = inner_model(model)
    stops = stop_ids(base, tokenizer)
    padding = padding_id(tokenizer, base.get_input_embeddings().weight.shape[0])
    written: dict[int, Generated] = {}
    for piece in pieces(prompts, max_new_tokens, max_tokens):
        new_BN = continued([prompts[row] for row in piece], model, Ends(stops, padding), max_new_tokens)
        for row, ids in zip(piece, new_BN.tolist(), strict=True):
            written[row] = _read(ids, tokenizer, stops)
    return [written[row] for row in range(len(prompts))]


def stop_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a text: the tokenizer's, those in generation_config.json, and special ones in config.json.

    Chat models end a turn with another token than a text, and some name several (Gemma, Llama 3, Qwen). If config.json
    names none, it has its family's default, which may be an ordinary token of this tokenizer.
    """
    return stops_of(model.config, getattr(model, "generation_config", None), tokenizer)


def stops_of_base(name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """As `stop_ids`, for a base that is not loaded."""
    try:
        generation = GenerationConfig.from_pretrained(model_source(name))
    except (OSError, ValueError, TypeError):  # missing, or rejected by transformers
        generation = None
    return stops_of(config, generation, tokenizer)


def stops_of(config: PreTrainedConfig, generation: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """As `stop_ids`, from a model's configurations; `generation` None: it has no generation_config.json."""
    named = _ids(getattr(generation, "eos_token_id", None))
    is_own = has_own_generation_file(generation)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    configured = [*([] if is_own else named), *_ids(getattr(config.get_text_config(), "eos_token_id", None))]
    of_model = [*(named if is_own else []), *(token for token in configured if token in special)]
    return tuple(dict.fromkeys([*_ids(tokenizer.eos_token_id), *of_model]))


def _ids(given: Any) -> list[int]:
    """Ids in a configuration, which names no token, one, or several."""
    several = given if isinstance(given, list | tuple) else [given]
    return [int(token) for token in several if isinstance(token, int)]


def pieces(prompts: Sequence[list[int]], max_new_tokens: int, max_tokens: int) -> list[list[int]]:
    """Rows by descending length, split into batches of limited size; the first row of a batch is its widest."""
    pieces: list[list[int]] = []
    for row in sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row)):
        if pieces and (len(prompts[pieces[-1][0]]) + max_new_tokens) * (len(pieces[-1]) + 1) <= max_tokens:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces


@dataclass(frozen=True)
class Ends:
    """Tokens that end the texts of a batch."""

    stops: tuple[int, ...]
    padding: int  # fills up a finished row


def continued(prompts: Sequence[list[int]], model: torch.nn.Module, ends: Ends, max_new_tokens: int) -> torch.Tensor:
    """(B, up to N) token ids; a finished row is padded after the token that ended it."""
    width = max(len(ids) for ids in prompts)
    padding = [width - len(ids) for ids in prompts]
    device = next(model.parameters()).device
    mask_BT = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding], device=device)
    rows = [[ends.padding] * pad + ids for pad, ids in zip(padding, prompts, strict=True)]
    output = model.generate(
        input_ids=torch.tensor(rows, device=device),
        attention_mask=mask_BT,
        position_ids=(mask_BT.cumsum(dim=1) - 1).clamp(min=0),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,  # some checkpoints set one in generation_config.json, which would not be greedy
        eos_token_id=list(ends.stops) or None,
        pad_token_id=ends.padding,
    )
    return output[:, width:]


def _read(ids: list[int], tokenizer: PreTrainedTokenizerBase, stops: Collection[int]) -> Generated:
    length = next((place for place, token in enumerate(ids) if token in stops), None)
    kept = ids[:length]
    return Generated(str(tokenizer.decode(kept, skip_special_tokens=True)), len(kept), length is not None)
