"""Laws of target names: which modules `qkv`, `attention`, `mlp` and `all-linear` mean, per architecture."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, FalconH1Config, PreTrainedConfig

from tunewise.errors import ModelError, SpecError
from tunewise.lab.methods.targets import linear_modules, resolve_targets
from tunewise.lab.models.load import Base

# Endings of the modules in one block, written by hand from the papers' and libraries' definitions.
# name: (query, key and value projections, the rest of attention, MLP, linear modules outside the blocks)
ENDINGS: dict[str, tuple[set[str], set[str], set[str], set[str]]] = {
    "gpt2": ({"attn.c_attn"}, {"attn.c_proj"}, {"mlp.c_fc", "mlp.c_proj"}, set()),
    "llama": (
        {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
        {"self_attn.o_proj"},
        {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
        set(),
    ),
    "phi3": ({"self_attn.qkv_proj"}, {"self_attn.o_proj"}, {"mlp.gate_up_proj", "mlp.down_proj"}, set()),
    "gpt-neox": (
        {"attention.query_key_value"},
        {"attention.dense"},
        {"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
        set(),
    ),
    "opt": (
        {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
        {"self_attn.out_proj"},
        {"fc1", "fc2"},
        set(),
    ),
    "bert": (
        {"attention.self.query", "attention.self.key", "attention.self.value"},
        {"attention.output.dense"},
        {"intermediate.dense", "output.dense"},
        set(),
    ),
    "distilbert": (
        {"attention.q_lin", "attention.k_lin", "attention.v_lin"},
        {"attention.out_lin"},
        {"ffn.lin1", "ffn.lin2"},
        set(),
    ),
    "deberta-v2": (
        {"attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"},
        {"attention.output.dense"},
        {"intermediate.dense", "output.dense"},
        set(),
    ),
    "modernbert": ({"attn.Wqkv"}, {"attn.Wo"}, {"mlp.Wi", "mlp.Wo"}, {"head.dense"}),
}
ENDINGS |= dict.fromkeys(("qwen2", "mistral", "gemma"), ENDINGS["llama"]) | {"roberta": ENDINGS["bert"]}
BLOCKS = {
    "gpt2": "transformer.h",
    "gpt-neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "deberta-v2": "deberta.encoder.layer",
}
Load = Callable[..., Base]


def full_names(architecture: str, endings: set[str]) -> set[str]:
    blocks = BLOCKS.get(architecture, "model.layers")
    return {f"{blocks}.{layer}.{ending}" for layer in range(2) for ending in endings}


def chosen(base: Base, targets: Any) -> set[str]:
    return set(resolve_targets(base, targets).names)


@pytest.mark.parametrize("name", ENDINGS)
def test_every_keyword_means_what_the_field_means_by_it(name: str, classifier: Load) -> None:
    base = classifier(name)
    qkv, rest, mlp, outside = ENDINGS[name]
    assert chosen(base, "qkv") == full_names(name, qkv)
    assert chosen(base, "attention") == full_names(name, qkv | rest)
    assert chosen(base, "mlp") == full_names(name, mlp)
    assert chosen(base, "all-linear") == full_names(name, qkv | rest | mlp) | outside


@pytest.mark.parametrize("name", [name for name in ENDINGS if "bert" not in name])
def test_a_language_model_and_a_classifier_of_one_base_have_the_same_targets(
    name: str, classifier: Load, language_model: Load
) -> None:
    for keyword in ("qkv", "attention", "mlp", "all-linear"):
        assert chosen(language_model(name), keyword) == chosen(classifier(name), keyword)


@pytest.mark.parametrize("name", ENDINGS)
def test_attention_and_mlp_share_no_module_and_qkv_is_part_of_attention(name: str, classifier: Load) -> None:
    base = classifier(name)
    assert not chosen(base, "attention") & chosen(base, "mlp")
    assert chosen(base, "qkv") < chosen(base, "attention")


@pytest.mark.parametrize("name", ENDINGS)
def test_heads_are_never_targets_whoever_names_them(name: str, classifier: Load) -> None:
    base = classifier(name)
    assert base.head_modules
    for module in linear_modules(base):
        assert not any(f"{module}.".startswith(f"{head}.") for head in base.head_modules)
    for head in base.head_modules:
        with pytest.raises(SpecError, match="matches no linear module"):
            resolve_targets(base, head)
        with pytest.raises(SpecError, match="matches no linear module"):
            resolve_targets(base, f".*{head}.*")


@pytest.mark.parametrize("name", [name for name in ENDINGS if "bert" not in name])
def test_the_output_embedding_is_never_a_target(name: str, language_model: Load) -> None:
    base = language_model(name)
    output = base.model.get_output_embeddings()
    assert output is not None
    assert all(base.model.get_submodule(module) is not output for module in chosen(base, "all-linear"))


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_decoder_of_a_masked_language_model_is_never_a_target(
    name: str, config_of: Callable[[str], PreTrainedConfig]
) -> None:
    base = Base(AutoModelForMaskedLM.from_config(config_of(name)), (), ())
    assert not [module for module in chosen(base, "all-linear") if module.endswith("decoder")]


def test_module_names_mean_every_module_that_ends_so(language_model: Load) -> None:
    base = language_model("llama")
    assert chosen(base, ("q_proj", "v_proj")) == full_names("llama", {"self_attn.q_proj", "self_attn.v_proj"})
    assert chosen(base, "mlp.up_proj") == full_names("llama", {"mlp.up_proj"})
    assert chosen(base, "model.layers.1.mlp.up_proj") == {"model.layers.1.mlp.up_proj"}
    assert chosen(base, ("qkv", "up_proj")) == chosen(base, "qkv") | chosen(base, "up_proj")


def test_a_name_is_a_whole_name_not_the_end_of_one(language_model: Load) -> None:
    with pytest.raises(SpecError, match="matches no linear module"):
        resolve_targets(language_model("llama"), "proj")


def test_a_regex_is_matched_against_the_whole_name(language_model: Load) -> None:
    base = language_model("llama")
    assert chosen(base, r".*\.1\.self_attn\.[qv]_proj") == {
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    }
    with pytest.raises(SpecError, match="matches no linear module"):
        resolve_targets(base, r"self_attn\.[qv]_proj")
    with pytest.raises(ModelError, match="not a valid regular expression"):
        resolve_targets(base, "([")
    with pytest.raises(ModelError, match="nested too deeply"):
        resolve_targets(base, "(" * 2_000)
    with pytest.raises(ModelError, match="could take hours"):
        resolve_targets(base, r"((\w+\.?)+)+!")


@pytest.mark.parametrize(
    ("target", "near"), [("qvk", "qkv"), ("q_porj", "q_proj"), ("all_linear", "all-linear"), ("atention", "attention")]
)
def test_an_unknown_name_shows_the_nearest_and_all_that_there_are(target: str, near: str, language_model: Load) -> None:
    with pytest.raises(
        SpecError, match=f"targets '{target}' matches no linear module.* Did you mean '{near}'"
    ) as caught:
        resolve_targets(language_model("llama"), target)
    for allowed in ("qkv", "all-linear", "gate_proj", "model.layers.0.self_attn.q_proj"):
        assert allowed in str(caught.value)


def test_names_come_in_the_order_of_the_model_each_once(language_model: Load) -> None:
    base = language_model("llama")
    names = resolve_targets(base, ("up_proj", "qkv", "q_proj")).names
    in_model = [name for name, _ in base.model.named_modules() if name in names]
    assert list(names) == in_model


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_the_linear_share_is_the_share_of_parameters_heads_apart(name: str, classifier: Load) -> None:
    base = classifier(name)
    qkv, rest, mlp, _ = ENDINGS[name]

    def count(endings: set[str]) -> int:
        return sum(p.numel() for n in full_names(name, endings) for p in base.model.get_submodule(n).parameters())

    expected = count(qkv) / count(qkv | rest | mlp)
    assert resolve_targets(base, "qkv").linear_share == pytest.approx(expected)
    assert resolve_targets(base, "all-linear").linear_share == 1


def test_a_model_without_linear_modules_is_refused() -> None:
    class NoLinear(torch.nn.Module):
        def get_output_embeddings(self) -> None:
            return None

    with pytest.raises(SpecError, match="no linear modules"):
        resolve_targets(Base(NoLinear(), (), ()), "all-linear")  # type: ignore[arg-type]


def test_cross_checks_use_models_that_the_library_builds(config_of: Callable[[str], PreTrainedConfig]) -> None:
    # the folder fixtures save and load; the names must also be those of a model straight from its configuration
    base = Base(AutoModelForCausalLM.from_config(config_of("llama")), (), ())
    assert chosen(base, "qkv") == full_names("llama", ENDINGS["llama"][0])


LLAMA = ("self_attn.q_proj self_attn.k_proj self_attn.v_proj", "self_attn.o_proj")
GATED = "mlp.gate_proj mlp.up_proj mlp.down_proj"
EXPERTS = "mlp.experts.gate_up_proj mlp.experts.down_proj"
SHARED = "mlp.shared_experts.gate_proj mlp.shared_experts.up_proj mlp.shared_experts.down_proj"
LATENT = ("self_attn.q_a_proj self_attn.q_b_proj self_attn.kv_a_proj_with_mqa self_attn.kv_b_proj", "self_attn.o_proj")
# Written by hand from the papers, for the architectures of docs/reference/models.md: qkv, the rest of attention, MLP,
# and what all-linear adds.
BY_HAND: dict[str, tuple[str, str, str, str]] = {
    "GPT-BigCode": ("attn.c_attn", "attn.c_proj", "mlp.c_fc mlp.c_proj", ""),
    "BLOOM": (
        *("self_attention.query_key_value", "self_attention.dense"),
        *("mlp.dense_h_to_4h mlp.dense_4h_to_h", ""),
    ),
    "MPT": ("attn.Wqkv", "attn.out_proj", "ffn.up_proj ffn.down_proj", ""),
    "Gemma 2": (*LLAMA, GATED, ""),
    "Gemma 3": (*LLAMA, GATED, ""),
    "Mixtral": (*LLAMA, EXPERTS, ""),
    "DeepSeek-V3": (*LATENT, f"{GATED} {EXPERTS} {SHARED}", ""),
    "Falcon-H1": (*LLAMA, GATED.replace("mlp", "feed_forward"), "mamba.in_proj"),
    "Mamba": ("", "", "", "mixer.in_proj"),
    "Nemotron-H": (
        *("mixer.q_proj mixer.k_proj mixer.v_proj", "mixer.o_proj"),
        "mixer.experts.up_proj mixer.experts.down_proj mixer.shared_experts.up_proj mixer.shared_experts.down_proj",
        "mixer.in_proj",
    ),
    "RecurrentGemma": (
        *("temporal_block.q_proj temporal_block.k_proj temporal_block.v_proj", "temporal_block.o_proj"),
        GATED.replace("mlp", "mlp_block"),
        "temporal_block.linear_x temporal_block.linear_y temporal_block.linear_out",
    ),
}
BY_HAND |= {"Falcon": BY_HAND["BLOOM"], "DeepSeek-V2": BY_HAND["DeepSeek-V3"]}


@pytest.mark.parametrize("name", BY_HAND)
def test_keywords_mean_the_same_in_fused_latent_mixed_and_hybrid_architectures(name: str) -> None:
    script = Path(__file__).parents[2] / "scripts" / "architectures.py"
    with torch.device("meta"):
        base = Base(
            AutoModelForCausalLM.from_config(runpy.run_path(str(script))["ARCHITECTURES"][name].config()), (), ()
        )

    def found(keyword: str) -> set[str]:
        try:
            names = resolve_targets(base, keyword, with_experts=True).names
        except SpecError:
            return set()
        return {re.sub(r"^.*?\.\d+\.", "", full) for full in names}

    qkv, rest, mlp, others = (set(names.split()) for names in BY_HAND[name])
    assert found("qkv") == qkv
    assert found("attention") == qkv | rest
    assert found("mlp") == mlp
    assert found("all-linear") == qkv | rest | mlp | others


def test_the_other_mixers_of_a_hybrid_model_are_neither_attention_nor_mlp() -> None:
    config = FalconH1Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
    )
    with torch.device("meta"):
        base = Base(AutoModelForCausalLM.from_config(config), (), ())
    mixers = {name for name in chosen(base, "all-linear") if ".mamba." in name}
    assert mixers
    assert not mixers & (chosen(base, "attention") | chosen(base, "mlp"))
    assert chosen(base, "attention") | chosen(base, "mlp") | mixers == chosen(base, "all-linear")


def test_a_keyword_that_matches_nothing_does_not_suggest_itself() -> None:
    class OnlyAttention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(
                [torch.nn.ModuleDict({"attn": torch.nn.ModuleDict({"q": torch.nn.Linear(2, 2)})})]
            )

        def get_output_embeddings(self) -> None:
            return None

    with pytest.raises(SpecError, match="targets 'mlp' matches no linear module") as caught:
        resolve_targets(Base(OnlyAttention(), (), ()), "mlp")  # type: ignore[arg-type]
    assert "Did you mean 'mlp'" not in str(caught.value)
