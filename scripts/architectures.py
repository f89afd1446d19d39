"""Architectures of the table in docs/reference/models.md: tiny configurations of transformers' classes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers as library
from transformers import PreTrainedConfig

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
WIDE_HEADS: dict[str, Any] = {**GROUPED, "head_dim": 8}
GPT: dict[str, Any] = {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
WINDOW: dict[str, Any] = {"sliding_window": 16}
TWO_OF_FOUR: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
TWO_OF_FOUR_SMALL: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SHARED: dict[str, Any] = {"shared_expert_intermediate_size": 24}
ROUTED: dict[str, Any] = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 4}
DELTA: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}


@dataclass(frozen=True)
class Architecture:
    """One row of the table."""

    config: Callable[[], PreTrainedConfig]
    what: str  # what sets it apart


def _of(kind: str, what: str, *sizes: dict[str, Any], **others: Any) -> Architecture:
    options = {key: value for part in (*sizes, others) for key, value in part.items()}
    return Architecture(lambda: getattr(library, f"{kind}Config")(**options), what)


ARCHITECTURES: dict[str, Architecture] = {
    "GPT-2": _of("GPT2", "fused qkv as Conv1D, tied head", GPT),
    "GPT-J": _of("GPTJ", "parallel blocks, untied head", GPT, rotary_dim=4),
    "GPT-BigCode": _of("GPTBigCode", "one key-value head, fused qkv", GPT),
    "GPT-NeoX": _of("GPTNeoX", "fused qkv, parallel blocks", SIZES),
    "BLOOM": _of("Bloom", "fused qkv, ALiBi", vocab_size=128, hidden_size=32, n_layer=2, n_head=4),
    "Falcon": _of("Falcon", "fused qkv, grouped heads", SIZES, new_decoder_architecture=True, num_kv_heads=2),
    "MPT": _of("Mpt", "fused qkv, ALiBi", vocab_size=128, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    "OPT": _of("OPT", "learned positions", SIZES, ffn_dim=48, word_embed_proj_dim=32),
    "Phi": _of("Phi", "parallel blocks", SIZES),
    "Phi-3": _of("Phi3", "fused qkv and fused MLP, sliding window", GROUPED, WINDOW),
    "Llama": _of("Llama", "grouped heads, untied head", GROUPED),
    "Llama, tied": _of("Llama", "head tied to the embedding", GROUPED, tie_word_embeddings=True),
    "Mistral": _of("Mistral", "sliding window", GROUPED, WINDOW),
    "Qwen2": _of("Qwen2", "biases on q, k, v", GROUPED),
    "Qwen3": _of("Qwen3", "norms of q and k", WIDE_HEADS),
    "Gemma": _of("Gemma", "tied head", WIDE_HEADS),
    "Gemma 2": _of("Gemma2", "soft caps, two window kinds", WIDE_HEADS, WINDOW),
    "Gemma 3": _of("Gemma3Text", "two window kinds, norms of q and k", WIDE_HEADS, WINDOW),
    "Gemma 3n": _of(
        "Gemma3nText",
        "several residual streams, an input for every layer",
        {**WIDE_HEADS, "intermediate_size": [48, 48], "activation_sparsity_pattern": [0.0, 0.0]},
        vocab_size_per_layer_input=128,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        laurel_rank=4,
    ),
    "Cohere": _of("Cohere", "parallel blocks, scaled logits", GROUPED),
    "Granite": _of("Granite", "scaled residuals and logits", GROUPED),
    "OLMo 2": _of("Olmo2", "norms after the blocks", GROUPED),
    "StarCoder2": _of("Starcoder2", "sliding window, MLP with two layers", GROUPED, WINDOW),
    "GLM-4": _of("Glm4", "fused MLP", WIDE_HEADS),
    "SmolLM3": _of("SmolLM3", "some layers without positions", GROUPED),
    "Mixtral": _of("Mixtral", "experts", GROUPED, TWO_OF_FOUR),
    "Qwen2-MoE": _of("Qwen2Moe", "experts, shared expert", GROUPED, TWO_OF_FOUR_SMALL, SHARED),
    "Qwen3-MoE": _of("Qwen3Moe", "experts, one dense layer", WIDE_HEADS, TWO_OF_FOUR_SMALL, mlp_only_layers=[0]),
    "OLMoE": _of("Olmoe", "experts", GROUPED, TWO_OF_FOUR_SMALL),
    "gpt-oss": _of("GptOss", "experts with biases, sinks, window", WIDE_HEADS, TWO_OF_FOUR, WINDOW),
    "Phi-3.5-MoE": _of("Phimoe", "experts", GROUPED, TWO_OF_FOUR),
    "GraniteMoE": _of("GraniteMoe", "experts", GROUPED, TWO_OF_FOUR),
    "GLM-4-MoE": _of("Glm4Moe", "experts, shared expert, one dense layer", WIDE_HEADS, ROUTED),
    "DeepSeek-V2": _of("DeepseekV2", "experts, latent attention, one dense layer", SIZES, ROUTED, LATENT),
    "DeepSeek-V3": _of("DeepseekV3", "experts, latent attention, one dense layer", SIZES, ROUTED, LATENT),
    "Llama 4": _of("Llama4Text", "experts, shared expert, chunks", WIDE_HEADS, TWO_OF_FOUR, intermediate_size_mlp=48),
    "Mamba": _of("Mamba", "state space only", vocab_size=128, hidden_size=32, num_hidden_layers=2, state_size=4),
    "Falcon-H1": _of("FalconH1", "attention and Mamba in every layer", GROUPED, MAMBA, mamba_d_ssm=64),
    "Bamba": _of("Bamba", "Mamba layers, one attention layer", GROUPED, MAMBA, attn_layer_indices=[1]),
    "Jamba": _of(
        "Jamba",
        "Mamba, attention and experts",
        GROUPED,
        {"num_experts": 4, "num_experts_per_tok": 2, "use_mamba_kernels": False, "mamba_d_state": 4},
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
    ),
    "Nemotron-H": _of(
        "NemotronH",
        "Mamba, attention and experts, all called mixer",
        {key: value for key, value in WIDE_HEADS.items() if key != "num_hidden_layers"},
        ROUTED,
        layers_block_type=["mamba", "attention", "moe"],
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=1,
        ssm_state_size=4,
        moe_shared_expert_intermediate_size=24,
    ),
    "Qwen3-Next": _of("Qwen3Next", "delta rule, attention, experts", WIDE_HEADS, TWO_OF_FOUR_SMALL, SHARED, DELTA),
    "RecurrentGemma": _of(
        "RecurrentGemma",
        "recurrent and local attention layers",
        GROUPED,
        block_types=["recurrent", "attention"],
        attention_window_size=16,
        lru_width=32,
    ),
    "LFM2": _of(
        "Lfm2",
        "convolutions, one attention layer",
        GROUPED,
        layer_types=["conv", "full_attention"],
        block_multiple_of=8,
    ),
}
