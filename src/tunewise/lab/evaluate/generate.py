"""Greedy text for prompts, many at once, the same as one by one.

Prompts of a batch are padded on the left, so that all continue at the same column; the attention mask hides the
padding, and positions count from each prompt's own first token, so that no padding can change what is written.

Shapes: B prompts, T tokens of the longest one, N tokens written at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase


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
    """What the model writes after every prompt by greedy decoding, up to its end-of-text token, in the given order.

    `max_tokens`: of a batch, padding and the tokens to be written included (one prompt at least); it changes speed
    and memory, not the text.
    """
    model.eval()
    written: dict[int, Generated] = {}
    for piece in _pieces(prompts, max_new_tokens, max_tokens):
        new_BN = _continue([prompts[row] for row in piece], model, tokenizer, max_new_tokens)
        for row, ids in zip(piece, new_BN.tolist(), strict=True):
            written[row] = _read(ids, tokenizer)
    return [written[row] for row in range(len(prompts))]


def _pieces(prompts: Sequence[list[int]], max_new_tokens: int, max_tokens: int) -> list[list[int]]:
    """Rows by falling length, cut where a batch would be too large; its first row is as wide as the batch."""
    pieces: list[list[int]] = []
    for row in sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row)):
        if pieces and (len(prompts[pieces[-1][0]]) + max_new_tokens) * (len(pieces[-1]) + 1) <= max_tokens:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces


def _continue(
    prompts: Sequence[list[int]], model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int
) -> torch.Tensor:
    """(B, up to N) token ids; a row that has ended is filled up with the end-of-text token."""
    width = max(len(ids) for ids in prompts)
    padding = [width - len(ids) for ids in prompts]
    end = tokenizer.eos_token_id
    device = next(model.parameters()).device
    mask_BT = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding], device=device)
    output = model.generate(
        input_ids=torch.tensor([[end] * pad + ids for pad, ids in zip(padding, prompts, strict=True)], device=device),
        attention_mask=mask_BT,
        position_ids=(mask_BT.cumsum(dim=1) - 1).clamp(min=0),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,  # some checkpoints' generation_config.json sets one, and it is not greedy then
        eos_token_id=end,
        pad_token_id=end,
    )
    return output[:, width:]


def _read(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Generated:
    stopped = tokenizer.eos_token_id in ids
    kept = ids[: ids.index(tokenizer.eos_token_id)] if stopped else ids
    return Generated(str(tokenizer.decode(kept, skip_special_tokens=True)), len(kept), stopped)
