"""Laws of the precision policy: what learns is fp32, and every arm computes the same function at step 0."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Example, make_batch
from tunewise.lab.methods import build_method
from tunewise.lab.models.load import Base, load_base, load_config, load_tokenizer
from tunewise.lab.train.loss import add_gradient, example_losses
from tunewise.lab.weights.precision import (
    assert_masters,
    leave_inputs_as_they_are,
    pick_precision,
    store_frozen_weights,
)
from tunewise.spec import FullMethod, HeadMethod, LoraMethod

Load = Callable[..., Base]
Examples = Callable[..., list[Example]]
LENGTHS = (9, 4, 16, 5)
LANGUAGE_MODELS = ("tiny", "llama", "gpt2", "gemma", "opt")
CLASSIFIERS = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "gpt2", "llama")


@pytest.fixture
def load(language_model: Load) -> Load:
    """A language model by name, the bundled one among them."""

    def by_name(name: str) -> Base:
        if name != "tiny":
            return language_model(name)
        config = load_config("tiny", "sft", False)
        return load_base("tiny", "sft", (), load_tokenizer("tiny", config, False), False)

    return by_name


def arm(method: Any, base: Base, task: str, precision: str = "bf16") -> torch.nn.Module:
    """The model as a run has it before its first step."""
    built = build_method(method, task, 1)  # type: ignore[arg-type]
    model = built.prepare(base)
    store_frozen_weights(model, precision, built.fp32_modules)  # type: ignore[arg-type]
    assert_masters(model)
    return model.eval()


@torch.no_grad()
def outputs(model: torch.nn.Module, examples: list[Example], precision: str = "bf16") -> list[torch.Tensor]:
    """The logits, and what training and scores make of them."""
    batch = make_batch(examples, range(len(examples)), padding=0)
    with Compute("cpu", precision).autocast():  # type: ignore[arg-type]
        logits = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
        return [logits, example_losses(model, batch).nll_B]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize("targets", ["qkv", "all-linear"])
def test_at_step_0_full_and_lora_are_bit_equal_in_mixed_precision(
    name: str, targets: str, load: Load, examples_of: Examples
) -> None:
    examples = examples_of(LENGTHS)
    full = outputs(arm(FullMethod(), load(name), "sft"), examples)
    assert same(outputs(arm(LoraMethod(targets=targets), load(name), "sft"), examples), full)
    in_fp32 = outputs(arm(FullMethod(), load(name), "sft"), examples, "fp32")
    assert not same(in_fp32, full), "nothing was rounded: the test shows nothing"


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_at_step_0_every_arm_of_a_classification_is_bit_equal_in_mixed_precision(
    name: str, classifier: Load, examples_of: Examples
) -> None:
    examples = examples_of(LENGTHS, classify=True)
    full = outputs(arm(FullMethod(), classifier(name), "classify"), examples)
    for method in (LoraMethod(), HeadMethod()):
        assert same(outputs(arm(method, classifier(name), "classify"), examples), full)


def test_a_base_stored_in_bf16_altogether_would_compute_another_function(load: Load, examples_of: Examples) -> None:
    full = outputs(arm(FullMethod(), load("tiny"), "sft"), examples_of(LENGTHS))
    careless = arm(LoraMethod(), load("tiny"), "sft", "fp32")
    for p in careless.parameters():
        if not p.requires_grad:
            p.data = p.data.to(torch.bfloat16)
    assert not same(outputs(careless, examples_of(LENGTHS)), full)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma", "opt"])
def test_only_frozen_linear_weights_are_stored_in_bf16(name: str, load: Load) -> None:
    base = load(name)
    model = arm(LoraMethod(), base, "sft")
    linear = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    embedding = id(base.model.get_input_embeddings().weight)
    halves = [p for p in model.parameters() if p.dtype == torch.bfloat16]
    assert halves
    for p in model.parameters():
        should_be_half = id(p) in linear and id(p) != embedding and not p.requires_grad
        assert p.dtype == (torch.bfloat16 if should_be_half else torch.float32)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is mapped into memory")
def test_the_file_of_weights_is_let_go_once_frozen_ones_are_stored_in_bf16(load: Load, tmp_path: Path) -> None:
    def is_held() -> bool:
        return str(tmp_path) in Path("/proc/self/maps").read_text(encoding="utf-8")

    load("gpt2").model.save_pretrained(tmp_path)
    base = Base(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32), (), ())
    before = {name: p.detach().clone() for name, p in base.model.named_parameters()}
    model = build_method(LoraMethod(), "sft", 1).prepare(base)
    assert is_held()
    store_frozen_weights(model, "bf16")
    assert not is_held()
    kept = {name: p for name, p in base.model.named_parameters() if name in before and p.dtype == torch.float32}
    assert len(kept) > 4
    for name, p in kept.items():
        assert torch.equal(p, before[name]), name


def test_a_frozen_head_is_in_bf16_and_an_embedding_that_it_is_tied_to_stays_in_fp32_and_is_all_there_is_to_save(
    load: Load,
) -> None:
    for name, tied in (("gpt2", True), ("gemma", True), ("llama", False)):
        base = load(name)
        num_parameters = sum(p.numel() for p in base.model.parameters())
        arm(LoraMethod(), base, "sft")
        head, embedding = base.model.get_output_embeddings(), base.model.get_input_embeddings()
        assert head.weight.dtype == torch.bfloat16
        assert embedding.weight.dtype == torch.float32
        assert torch.equal(head.weight, embedding.weight.to(torch.bfloat16)) == tied
        assert ("weight" in head.state_dict()) == (not tied)
        assert sum(p.numel() for n, p in base.model.named_parameters() if "lora_" not in n) == num_parameters


@pytest.mark.parametrize("name", ["tiny", "gemma"])
def test_the_copy_of_a_tied_head_changes_no_bit_of_loss_and_gradients(
    name: str, load: Load, examples_of: Examples
) -> None:
    base, found = load(name), []
    model = arm(LoraMethod(), base, "sft")
    batch = make_batch(examples_of(LENGTHS), range(len(LENGTHS)), padding=0)
    head = base.model.get_output_embeddings()
    for copied in (True, False):
        if not copied:
            del head.weight
            head.weight = base.model.get_input_embeddings().weight
        loss = add_gradient(model, batch, batch.num_targets, Compute("cpu", "bf16"))
        found.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
        model.zero_grad()
    assert len(found[0]) > 4
    assert same(*found)


@pytest.mark.parametrize("name", ["tiny", "gpt2"])
def test_inputs_that_are_not_cast_to_fp32_and_back_change_no_bit(name: str, load: Load, examples_of: Examples) -> None:
    base, found = load(name), []
    model = arm(LoraMethod(targets="all-linear"), base, "sft")
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:  # 0, and with it the gradient of A
            torch.nn.init.normal_(parameter, std=0.02)
    batch = make_batch(examples_of(LENGTHS), range(len(LENGTHS)), padding=0)
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for is_left in (False, True):
        if is_left:
            leave_inputs_as_they_are(model, "bf16")
        assert {layer.cast_input_dtype_enabled for layer in layers} == {not is_left}
        loss = add_gradient(model, batch, batch.num_targets, Compute("cpu", "bf16"))
        found.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
        model.zero_grad()
    assert len(found[0]) > 4
    assert same(*found)


def test_a_tied_head_that_learns_is_the_embedding(load: Load) -> None:
    base = load("gpt2")
    arm(FullMethod(), base, "sft")
    assert base.model.get_output_embeddings().weight is base.model.get_input_embeddings().weight


def test_the_body_that_is_saved_with_a_tuned_head_is_the_bases(classifier: Load, tmp_path: Path) -> None:
    base = classifier("bert")
    before = {name: p.detach().clone() for name, p in base.model.named_parameters()}
    method = build_method(HeadMethod(), "classify", 1)
    model = method.prepare(base)
    store_frozen_weights(model, "bf16", method.fp32_modules)
    method.save(model, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == before.keys()
    assert all(torch.equal(saved[name], before[name]) for name in saved), "rounded to bf16 on the way"


def test_full_fine_tuning_keeps_every_weight_in_fp32(load: Load) -> None:
    assert {p.dtype for p in arm(FullMethod(), load("llama"), "sft").parameters()} == {torch.float32}


def test_in_fp32_nothing_is_stored_otherwise_and_nothing_is_rounded(load: Load, examples_of: Examples) -> None:
    base = load("llama")
    expected = outputs(base.model.eval(), examples_of(LENGTHS), "fp32")
    model = arm(LoraMethod(), base, "sft", "fp32")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert same(outputs(model, examples_of(LENGTHS), "fp32"), expected)
    assert expected[0].dtype == torch.float32


@pytest.mark.parametrize("name", ["tiny", "llama"])
def test_what_learns_gets_fp32_gradients_in_mixed_precision(name: str, load: Load, examples_of: Examples) -> None:
    for method in (FullMethod(), LoraMethod()):
        model = arm(method, load(name), "sft")
        batch = make_batch(examples_of(LENGTHS), range(len(LENGTHS)), padding=0)
        with Compute("cpu", "bf16").autocast():
            loss = example_losses(model, batch).nll_B.sum()
        assert loss.dtype == torch.float32
        loss.backward()
        for n, p in model.named_parameters():
            assert (p.grad is not None) == p.requires_grad, n
            assert p.grad is None or (p.grad.dtype == torch.float32 and bool(p.grad.isfinite().all()))


def test_the_precision_of_a_cpu_is_bf16_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_it, expected in ((False, "fp32"), (True, "bf16")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has_it=has_it: has_it)
        assert pick_precision("cpu") == expected
    assert pick_precision("mps") == "fp32"


def test_eager_attention_computes_the_same_logits_as_the_models_default() -> None:
    config = load_config("tiny", "sft", False)
    model = load_base("tiny", "sft", (), load_tokenizer("tiny", config, False), False).model
    ids = torch.arange(48).reshape(2, 24)
    mask = torch.ones_like(ids)
    mask[1, 16:] = 0  # padded on the right
    with torch.no_grad():
        default = model(input_ids=ids, attention_mask=mask).logits
        model.set_attn_implementation("eager")
        eager = model(input_ids=ids, attention_mask=mask).logits
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(eager[mask.bool()], default[mask.bool()], rtol=0, atol=1e-4)
