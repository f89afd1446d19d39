"""Fused kernels compute what models and peft came with, only with less rounding."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN

from lab_fixtures import small_config
from tunewise.lab.models.fusing import fuse
from tunewise.lab.models.load import model_source

IDS = torch.arange(3, 43).reshape(2, 20)

NAMES = ("gelu_new", "gelu_fast")


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_the_formula(name: str) -> None:
    model = torch.nn.Sequential(ACT2FN[name])
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64, requires_grad=True)
    written_out = model(x)
    (gradient,) = torch.autograd.grad(written_out.sum(), x)
    fuse(model)
    assert type(model[0]) is type(ACT2FN["gelu_pytorch_tanh"])
    fused = model(x)
    torch.testing.assert_close(fused, written_out, rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.autograd.grad(fused.sum(), x)[0], gradient, rtol=0, atol=1e-9)


def test_bf16_is_nearer_to_the_formula_than_written_out() -> None:
    x = torch.linspace(-4, 4, 4001).bfloat16()
    exact = ACT2FN["gelu_new"](x.double())
    fused, written_out = ACT2FN["gelu_pytorch_tanh"](x), ACT2FN["gelu_new"](x)
    assert (fused - exact).abs().mean() < (written_out - exact).abs().mean()


@pytest.mark.parametrize("name", ["gelu", "quick_gelu", "relu"])
def test_other_activations_stay(name: str) -> None:
    model = torch.nn.Sequential(ACT2FN[name])
    kept = model[0]
    fuse(model)
    assert model[0] is kept


def test_the_bundled_base_has_the_same_logits() -> None:
    model = AutoModelForCausalLM.from_pretrained(model_source("tiny"), dtype=torch.float32)
    ids = torch.arange(100, 140)[None]
    with torch.no_grad():
        before = model(ids).logits
        fuse(model)
        after = model(ids).logits
    assert 0 < (after - before).abs().max() < 1e-4, "another kernel, the same function"


def adapted(family: str, **options: Any) -> torch.nn.Module:
    """A model with LoRA on every layer, B already away from zero."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_config(family))
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=3, target_modules="all-linear", **options))
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapted


def logits_and_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # of dropout
    model.zero_grad()
    logits = model(input_ids=IDS).logits
    logits.double().square().sum().backward()
    return {"logits": logits} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("family", ["gpt2", "llama"])  # Conv1D and Linear
def test_what_lora_adds_and_all_gradients_are_those_of_peft(family: str, dropout: float) -> None:
    model = adapted(family, lora_dropout=dropout).double()
    plain = logits_and_gradients(model)
    fuse(model)
    fused = logits_and_gradients(model)
    assert fused.keys() == plain.keys()
    assert len(plain) > 8
    for name, value in plain.items():
        torch.testing.assert_close(fused[name], value, rtol=1e-9, atol=1e-9 * value.abs().max().item(), msg=name)


def test_bf16_lora_is_nearer_to_the_formula_than_peft() -> None:
    def logits(precision: torch.dtype) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            return model(input_ids=IDS).logits.double()

    model = adapted("llama").eval()
    exact, plain = logits(torch.float32), logits(torch.bfloat16)
    fuse(model)
    fused = logits(torch.bfloat16)
    assert 0 < (fused - exact).square().mean() < (plain - exact).square().mean()


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}], ids=str)
def test_lora_that_adds_something_else_stays(options: dict[str, Any]) -> None:
    model = adapted("llama", **options)
    plain = logits_and_gradients(model)
    fuse(model)
    for name, value in logits_and_gradients(model).items():
        assert torch.equal(plain[name], value), name
