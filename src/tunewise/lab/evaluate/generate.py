"""Greedy text for prompts, one at a time, so that no padding can change it."""

import torch
from transformers import PreTrainedTokenizerBase


@torch.no_grad()
def continue_text(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], max_new_tokens: int
) -> str:
    """What the model writes after the prompt by greedy decoding, up to its end-of-text token."""
    model.eval()
    device = next(model.parameters()).device
    ids = torch.tensor([prompt_ids], device=device)
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return str(tokenizer.decode(output[0, len(prompt_ids) :], skip_special_tokens=True))
