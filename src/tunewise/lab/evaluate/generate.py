"""Greedy text for prompts, many at once, the same as one by one.

Prompts of a batch are padded on the left, so that all continue at the same column; the attention mask hides the
padding, and positions count from each prompt's own first token, so that no padding can change what is written.

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
    """What a model wrote after one prompt."""

    text: str
    num_tokens: int  # written, the end-of-text token not counted
    stopped: bool  # True: it ended by itself; False: it was cut off at the cap


@torch.no_grad()
def generate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    max_tokens: int,
) -> list[Generated]:
    """What the model writes after every prompt by greedy decoding, up to a token that ends it, in the given order.

    `max_tokens`: of a batch, padding and the tokens to be written included (one prompt at least); it changes speed
    and memory, not the text.
    """
    model.eval()
    base = inner_model(model)
    stops = stop_ids(base, tokenizer)
    padding = padding_id(tokenizer, base.get_input_embeddings().weight.shape[0])
    written: dict[int, Generated] = {}
    for piece in _pieces(prompts, max_new_tokens, max_tokens):
        new_BN = _continue([prompts[row] for row in piece], model, _Ends(stops, padding), max_new_tokens)
        for row, ids in zip(piece, new_BN.tolist(), strict=True):
            written[row] = _read(ids, tokenizer, stops)
    return [written[row] for row in range(len(prompts))]


def stop_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end a text: the tokenizer's, those of the model's generation_config.json, and those of its
    config.json that are special.

    Chat models end a turn with another token than a text, and some name several (Gemma, Llama 3, Qwen). A config.json
    that names none has its family's default, which may be a word of this tokenizer.
    """
    return stops_of(model.config, getattr(model, "generation_config", None), tokenizer)


def stops_of_base(name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """As `stop_ids`, of a base that is not loaded."""
    try:
        generation = GenerationConfig.from_pretrained(model_source(name))
    except (OSError, ValueError, TypeError):  # it has none, or one that transformers does not take for its own
        generation = None
    return stops_of(config, generation, tokenizer)


def stops_of(config: PreTrainedConfig, generation: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """As `stop_ids`, from what a model says of itself; `generation` None: it has no generation_config.json."""
    named = _ids(getattr(generation, "eos_token_id", None))
    is_own = has_own_generation_file(generation)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    configured = [*([] if is_own else named), *_ids(getattr(config.get_text_config(), "eos_token_id", None))]
    of_model = [*(named if is_own else []), *(token for token in configured if token in special)]
    return tuple(dict.fromkeys([*_ids(tokenizer.eos_token_id), *of_model]))


def _ids(given: Any) -> list[int]:
    """A configuration names no token, one, or several."""
    several = given if isinstance(given, list | tuple) else [given]
    return [int(token) for token in several if isinstance(token, int)]


def _pieces(prompts: Sequence[list[int]], max_new_tokens: int, max_tokens: int) -> list[list[int]]:
    """Rows by falling length, cut where a batch would be too large; its first row is as wide as the batch."""
    pieces: list[list[int]] = []
    for row in sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row)):
        if pieces and (len(prompts[pieces[-1][0]]) + max_new_tokens) * (len(pieces[-1]) + 1) <= max_tokens:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces


@dataclass(frozen=True)
class _Ends:
    """How a batch of texts ends."""

    stops: tuple[int, ...]
    padding: int  # fills up a row that has ended


def _continue(prompts: Sequence[list[int]], model: torch.nn.Module, ends: _Ends, max_new_tokens: int) -> torch.Tensor:
    """(B, up to N) token ids; a row that has ended is filled up behind the token that ended it."""
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
        repetition_penalty=1.0,  # some checkpoints' generation_config.json sets one, and it is not greedy then
        eos_token_id=list(ends.stops) or None,
        pad_token_id=ends.padding,
    )
    return output[:, width:]


def _read(ids: list[int], tokenizer: PreTrainedTokenizerBase, stops: Collection[int]) -> Generated:
    length = next((place for place, token in enumerate(ids) if token in stops), None)
    kept = ids[:length]
    return Generated(str(tokenizer.decode(kept, skip_special_tokens=True)), len(kept), length is not None)
