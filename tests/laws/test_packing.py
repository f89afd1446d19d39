"""Law 11: an example reads nothing but itself, in whatever batch it stands."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTJConfig,
    MambaConfig,
    MptConfig,
    PreTrainedConfig,
    Qwen3Config,
)

import tunewise.lab.data.batching
from lab_fixtures import LABELS, LENGTHS, VOCABULARY, make_examples, small_config
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, Example, make_batch, pack_batch
from tunewise.lab.evaluate.score import score
from tunewise.lab.methods import build_method
from tunewise.lab.models.attention import NAMES, pack_places
from tunewise.lab.models.load import Base
from tunewise.lab.models.packing import fit_attention
from tunewise.lab.train.loss import class_logits, example_losses
from tunewise.spec import LoraMethod

SIZES = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "max_position_embeddings": 64}
WIDTHS = {**SIZES, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MORE_FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3": lambda: Qwen3Config(**WIDTHS, **SPECIAL, head_dim=8),
    "gemma2": lambda: Gemma2Config(**WIDTHS, **SPECIAL, head_dim=8, sliding_window=32, query_pre_attn_scalar=8),
    "gemma3": lambda: Gemma3TextConfig(**WIDTHS, **SPECIAL, head_dim=8, sliding_window=32, query_pre_attn_scalar=8),
    "bloom": lambda: BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, **SPECIAL),
    "falcon": lambda: FalconConfig(**{k: v for k, v in WIDTHS.items() if k != "intermediate_size"}, **SPECIAL),
    "mpt": lambda: MptConfig(vocab_size=VOCABULARY, d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
    "gptj": lambda: GPTJConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64),
    "mamba": lambda: MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4, **SPECIAL),
}
PACK = ("gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "phi3", "gpt-neox", "opt")
PAD = ("bloom", "falcon", "mpt", "gptj", "mamba")  # attention of their own (GPT-J up to transformers 5.23), or none


def random_model(family: str, auto: Any = AutoModelForCausalLM) -> Any:
    torch.manual_seed(0)
    config = MORE_FAMILIES[family]() if family in MORE_FAMILIES else small_config(family)
    config.num_labels = len(LABELS)
    return auto.from_config(config).eval()


def nll(model: torch.nn.Module, examples: list[Example], batching: Batching) -> torch.Tensor:
    return torch.tensor(
        [row["nll"] for row in score(model, examples, batching, Compute("cpu", "fp32"))], dtype=torch.float64
    )


@torch.no_grad()
def logits_alone(model: Any, examples: list[Example]) -> torch.Tensor:
    return torch.cat([model(input_ids=torch.tensor([e.input_ids])).logits[0] for e in examples])


@pytest.mark.parametrize("attention", [None, "eager", "sdpa"])
@pytest.mark.parametrize("family", PACK)
def test_law_11_packed_logits_are_those_of_every_example_alone(family: str, attention: Any) -> None:
    """Law 11: for every architecture and attention kernel that the probe lets pack, each of eight examples of unequal
    length has packed the logits that it has alone with the attention that the model came with (1e-5)."""
    model, examples = random_model(family), make_examples(LENGTHS)
    if attention == "sdpa" and model.config._attn_implementation == "eager":
        pytest.skip("this family has matrix products only")
    if attention is not None:
        model.set_attn_implementation(attention)
    expected = logits_alone(model, examples)
    assert fit_attention(model, attention, "sft") >= max(LENGTHS), "the probe lets it pack"
    names = {NAMES["fastest"], NAMES["eager"]} if attention is None else {NAMES[attention]}
    assert model.config._attn_implementation in names
    with torch.no_grad():
        batch = pack_batch(examples, range(8))
        packed = model(**batch.inputs, use_cache=False).logits[0, : batch.num_tokens]
    assert batch.input_ids_BT.numel() > batch.num_tokens, "tokens that fill the row up are among them"
    assert float((packed - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("family", PAD)
def test_law_11_a_model_that_would_mix_packed_examples_is_padded(family: str) -> None:
    """Law 11: where attention is not ours to replace, nothing is packed, and batches score as examples alone do."""
    model, examples = random_model(family), make_examples(LENGTHS)
    alone = nll(model, examples, Batching(1, 0))
    longest = fit_attention(model, None, "sft")
    assert bool(longest) == hasattr(sys.modules[type(model).__module__], "ALL_ATTENTION_FUNCTIONS")
    torch.testing.assert_close(nll(model, examples, Batching(64, 0, longest)), alone, rtol=1e-5, atol=0)


def classifier(family: str) -> Any:
    model = random_model(family, AutoModelForSequenceClassification)
    model.config.pad_token_id = 0
    return model


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_law_11_an_encoder_whose_head_reads_first_tokens_is_packed(family: str) -> None:
    """Law 11: packed, every example has the logits that it has alone, and the gradient is that of padded batches."""
    model, examples = classifier(family), make_examples(LENGTHS, classify=True)
    padded, packed = make_batch(examples, range(8), 0), pack_batch(examples, range(8))
    with torch.no_grad():
        alone = torch.cat([model(input_ids=torch.tensor([e.input_ids])).logits for e in examples])
    gradients = []
    for batch in (padded, packed):
        assert batch is padded or fit_attention(model, None, "classify")
        logits = class_logits(model, batch)
        torch.testing.assert_close(logits.detach(), alone, rtol=1e-5, atol=1e-6)
        example_losses(model, batch).nll_B.sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_law_11_a_packed_row_of_an_encoder_may_be_longer_than_the_texts_it_takes(family: str) -> None:
    """Law 11: a packed row longer than the position table scores as the examples alone do; where it could not be
    embedded, nothing is packed."""
    model, examples = classifier(family), make_examples(LENGTHS, classify=True)
    batching = Batching(1000, 0, fit_attention(model, None, "classify"))
    (batch,) = batching.batches(examples, range(8))
    assert batch.packed_12BL is not None
    assert batch.num_tokens > model.config.max_position_embeddings
    torch.testing.assert_close(nll(model, examples, batching), nll(model, examples, Batching(1, 0)), rtol=1e-5, atol=0)

    def refuse(*given: Any, **named: Any) -> Any:
        ids = named["input_ids"] if "input_ids" in named else given[0]
        if ids.shape[1] > model.config.max_position_embeddings:
            raise RuntimeError("no places left")
        return embed(*given, **named)

    other = classifier(family)
    embeddings = other.base_model.embeddings
    embed, embeddings.forward = embeddings.forward, refuse
    assert fit_attention(other, None, "classify") == 0


@pytest.mark.parametrize("family", ["deberta-v2", "modernbert", "gpt2", "llama", "gemma2"])
def test_law_11_other_classifications_are_padded_and_sorted_by_length(family: str) -> None:
    """Law 11: whose attention is its own, or whose head reads a last token, is padded, examples sorted by length."""
    model, examples = classifier(family), make_examples(LENGTHS, classify=True)
    alone = nll(model, examples, Batching(1, 0))
    longest = fit_attention(model, None, "classify")
    assert longest == 0
    batches = list(Batching(40, 0, longest).batches(examples, range(8)))
    assert all(batch.packed_12BL is None for batch in batches)
    lengths = [[LENGTHS[row] for row in batch.rows] for batch in batches]
    assert [n for piece in lengths for n in piece] == sorted(LENGTHS, reverse=True)
    torch.testing.assert_close(nll(model, examples, Batching(40, 0, longest)), alone, rtol=1e-5, atol=0)


def test_law_11_the_probe_refuses_what_mixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 11: were the two examples of the probe read as one text, it would see it."""
    monkeypatch.setattr(tunewise.lab.data.batching, "pack_places", lambda lengths: pack_places([sum(lengths)]))
    model = random_model("llama")
    assert fit_attention(model, None, "sft") == 0
    assert model.config._attn_implementation == NAMES["fastest"], "padded batches are not concerned"


def test_law_11_virtual_tokens_in_front_forbid_packing() -> None:
    """Law 11: the probe asks the model with its adapter: prompt tuning lengthens a row, and is padded."""
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(random_model("llama"), config).eval()
    examples = make_examples(LENGTHS)
    alone = nll(model, examples, Batching(1, 0))
    assert fit_attention(model, None, "sft") == 0
    torch.testing.assert_close(nll(model, examples, Batching(64, 0)), alone, rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_law_11_texts_beyond_a_sliding_window_are_padded(family: str) -> None:
    """Law 11: packed rows know no window, so longer examples than it are padded beside packed ones."""
    config = small_config(family) if family == "mistral" else MORE_FAMILIES[family]()
    config.sliding_window = 12
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    examples = make_examples(LENGTHS)
    alone = nll(model, examples, Batching(1, 0))
    longest = fit_attention(model, None, "sft")
    assert longest == 12
    batching = Batching(64, 0, longest)
    packed = [row for b in batching.batches(examples, range(8)) if b.packed_12BL is not None for row in b.rows]
    assert sorted(packed) == [row for row, length in enumerate(LENGTHS) if length <= 12]
    torch.testing.assert_close(nll(model, examples, batching), alone, rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_law_11_the_gradient_of_a_packed_batch_is_that_of_a_padded_one(family: str) -> None:
    """Law 11: loss and gradients, of full fine-tuning and of LoRA, agree between the layouts (1e-5)."""
    for method in ("full", "lora"):
        model: Any = random_model(family)
        if method == "lora":
            model = build_method(LoraMethod(rank=2), "sft", 1).prepare(Base(model, (), ()))
        model.eval()
        examples, found = make_examples(LENGTHS), []
        for packs in (False, True):
            assert not packs or fit_attention(model, None, "sft")
            batch = pack_batch(examples, range(8)) if packs else make_batch(examples, range(8), 0)
            losses = example_losses(model, batch).nll_B
            losses.sum().backward()
            found.append((losses.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
            model.zero_grad(set_to_none=True)
        (padded_nll, padded), (packed_nll, packed) = found
        torch.testing.assert_close(packed_nll, padded_nll, rtol=1e-5, atol=1e-6)
        assert padded.keys() == packed.keys()
        apart = sum(float((packed[n] - padded[n]).double().square().sum()) for n in padded)
        assert apart <= 1e-10 * sum(float(g.double().square().sum()) for g in padded.values())


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_the_kernel_for_short_texts_in_bf16_computes_what_the_models_own_does(family: str) -> None:
    """In bf16 on CPU short texts go through matrix products, which is faster; the loss is the same to its rounding."""
    auto = AutoModelForSequenceClassification if family == "bert" else AutoModelForCausalLM
    task: Any = "classify" if family == "bert" else "sft"
    model = random_model(family, auto)
    examples = make_examples(LENGTHS, classify=task == "classify")
    exact = nll(model, examples, Batching(64, 0))
    batch = make_batch(examples, range(8), 0)

    def in_bf16() -> torch.Tensor:
        with torch.no_grad(), Compute("cpu", "bf16").autocast():
            return example_losses(model, batch).nll_B

    own = in_bf16()
    fit_attention(model, None, task)
    assert model.config._attn_implementation == NAMES["fastest"]
    ours = in_bf16()
    assert not torch.equal(own, ours), "the same kernel: the test shows nothing"
    assert float((ours - exact).abs().max()) <= 3 * float((own - exact).abs().max())
