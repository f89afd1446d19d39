"""The fused kernel computes what the model came with, only with less rounding."""

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN

from tunewise.lab.activations import fuse_activations
from tunewise.lab.models import model_source

NAMES = ("gelu_new", "gelu_fast")


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_the_formula(name: str) -> None:
    model = torch.nn.Sequential(ACT2FN[name])
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64, requires_grad=True)
    written_out = model(x)
    (gradient,) = torch.autograd.grad(written_out.sum(), x)
    fuse_activations(model)
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
    fuse_activations(model)
    assert model[0] is kept


def test_the_bundled_base_has_the_same_logits() -> None:
    model = AutoModelForCausalLM.from_pretrained(model_source("tiny"), dtype=torch.float32)
    ids = torch.arange(100, 140)[None]
    with torch.no_grad():
        before = model(ids).logits
        fuse_activations(model)
        after = model(ids).logits
    assert 0 < (after - before).abs().max() < 1e-4, "another kernel, the same function"
