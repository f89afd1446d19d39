"""Laws of generation."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
)

from tunewise.lab.evaluate.generate import Generated, generate
from tunewise.lab.models.load import load_base, load_config, load_tokenizer

STORIES = Path(__file__).parents[3] / "shared" / "data" / "weights" / "stories260k"
VOCABULARY, CONTEXT = 4096, 96
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.5,  # far from uniform, so that positions and neighbors decide what comes next
}
RANDOM: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen2": lambda: Qwen2Config(**COMMON, num_key_value_heads=2),
    "llama": lambda: LlamaConfig(**COMMON, num_key_value_heads=2),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, initializer_range=0.5
    ),
    "gemma": lambda: GemmaConfig(**COMMON, num_key_value_heads=2, head_dim=8),
    "phi3": lambda: Phi3Config(**COMMON, num_key_value_heads=2, pad_token_id=0),
    "gpt-neox": lambda: GPTNeoXConfig(**COMMON),
    "opt": lambda: OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        init_std=0.5,
    ),
}
PRETRAINED = {"tiny": "tiny", "stories260k": str(STORIES)}
TEXTS = (
    "Once",
    "Once upon a time there was a little girl",
    "The",
    "It was a dark and stormy night, and the rain fell in torrents, except at occasional intervals,",
    "Return the",
    "Tom and his dog went to the park. They saw a big",
    "A",
    "One day, a bird",
)


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(name, load_config(name, "sft", False), False)


def model_of(name: str) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    if name in PRETRAINED:
        tokenizer = tokenizer_of(PRETRAINED[name])
        return load_base(PRETRAINED[name], "sft", (), tokenizer, False).model, tokenizer
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(RANDOM[name]()).eval(), tokenizer_of("tiny")


@torch.no_grad()
def plainly(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, ids: list[int], cap: int) -> Generated:
    """Greedy decoding without padding, mask, cache or library: the most likely token, again and again."""
    new: list[int] = []
    while len(new) < cap:
        best = int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            return Generated(tokenizer.decode(new, skip_special_tokens=True), len(new), True)
        new.append(best)
    return Generated(tokenizer.decode(new, skip_special_tokens=True), len(new), False)


@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        pytest.param(
            "stories260k",
            marks=pytest.mark.skipif(not STORIES.is_dir(), reason="stories260k lies beside the repository"),
        ),
        *RANDOM,
    ],
)
def test_law_27_greedy_text_is_the_same_one_by_one_and_in_a_batch(name: str) -> None:
    model, tokenizer = model_of(name)
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert len({len(ids) for ids in prompts}) > 3, "prompts of unequal length, or padding is not tested"
    expected = [plainly(model, tokenizer, ids, 16) for ids in prompts]
    assert len({one.text for one in expected}) > 3, "all prompts alike would hide an exchange of rows"
    widest = max(len(ids) for ids in prompts) + 16
    assert generate(model, tokenizer, prompts, 16, max_tokens=1) == expected, "one by one"
    assert generate(model, tokenizer, prompts, 16, max_tokens=8 * widest) == expected, "all eight in one batch"
    assert generate(model, tokenizer, prompts, 16, max_tokens=3 * widest) == expected, "batches of unequal size"


def test_a_text_that_ends_says_so_and_is_not_cut_by_its_neighbours() -> None:
    model, tokenizer = model_of("tiny")
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    first = [plainly(model, tokenizer, ids, 8) for ids in prompts]
    # a token that one text writes in the middle becomes the end of text
    tokenizer.eos_token_id = tokenizer(first[1].text)["input_ids"][3]
    expected = [plainly(model, tokenizer, ids, 8) for ids in prompts]
    assert {one.stopped for one in expected} == {True, False}
    assert generate(model, tokenizer, prompts, 8, max_tokens=10_000) == expected


def test_a_repetition_penalty_that_the_checkpoint_brings_is_not_applied() -> None:
    model, tokenizer = model_of("tiny")
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    plain = generate(model, tokenizer, prompts, 16, max_tokens=10_000)
    model.generation_config.repetition_penalty = 5.0
    assert generate(model, tokenizer, prompts, 16, max_tokens=10_000) == plain
