"""Truncations of a trained adapter: the nearest of their rank, one after the other, and nothing stays behind."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from tunewise.lab.evaluate.truncate import truncations
from tunewise.lab.methods import build_method, describe
from tunewise.lab.models.load import Base
from tunewise.spec import LoraMethod, PeftMethod

Load = Callable[..., Base]
RANKS = (1, 2, 4)
SPEC = LoraMethod(rank=6, alpha=9)


@pytest.fixture(params=["gpt2", "llama"])
def adapted(request: pytest.FixtureRequest, language_model: Load) -> torch.nn.Module:
    """An adapter whose modules differ in size and in how fast their singular values fall."""
    return adapted_model(request.param, language_model)


def adapted_model(name: str, language_model: Load) -> torch.nn.Module:
    torch.manual_seed(1)
    model = build_method(SPEC, "sft", 1).prepare(language_model(name))
    with torch.no_grad():
        for number, layer in enumerate(layers(model).values()):
            layer.lora_B["default"].weight.normal_(0, 0.1 * (1 + number % 3))
            layer.lora_A["default"].weight *= torch.tensor([1.0, 0.7, 0.5, 0.2, 0.1, 0.05])[:, None] ** (number % 2)
    return model


def layers(model: torch.nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def learned(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def updates(model: torch.nn.Module) -> dict[str, Any]:
    """What every layer adds to its weight, in float64."""
    found = {}
    for name, layer in layers(model).items():
        A, B = (side["default"].weight.detach().double().numpy() for side in (layer.lora_A, layer.lora_B))
        found[name] = layer.scaling["default"] * B @ A
    return found


def test_each_truncation_is_the_nearest_of_its_rank(adapted: torch.nn.Module) -> None:
    whole = updates(adapted)
    seen = []
    for cut_down in truncations(adapted, RANKS):
        seen.append((cut_down.rank, cut_down.spread))
        for name, update in updates(adapted).items():
            U, s, Vt = np.linalg.svd(whole[name], full_matrices=False)
            rank = np.linalg.matrix_rank(update, tol=1e-6 * s[0])
            if not cut_down.spread:
                assert rank == cut_down.rank
            np.testing.assert_allclose(update, (U[:, :rank] * s[:rank]) @ Vt[:rank], atol=1e-6 * s[0])
    assert seen == [(rank, spread) for spread in (False, True) for rank in RANKS]


def test_spread_ranks_take_no_more_parameters_and_lose_no_more(adapted: torch.nn.Module) -> None:
    whole = updates(adapted)
    lost: dict[tuple[int, bool], float] = {}
    parameters: dict[tuple[int, bool], int] = {}
    for cut_down in truncations(adapted, RANKS):
        found = updates(adapted)
        key = (cut_down.rank, cut_down.spread)
        lost[key] = sum(float(((whole[n] - found[n]) ** 2).sum()) for n in whole)
        parameters[key] = sum(int(np.linalg.matrix_rank(u, tol=1e-6)) * sum(u.shape) for u in found.values())
    for rank in RANKS:
        assert parameters[rank, True] <= parameters[rank, False]
    assert lost[2, True] < lost[2, False]
    method = build_method(SPEC, "sft", 1)
    assert parameters[1, False] == sum(sum(update.shape) for update in whole.values())
    assert describe(adapted, method).rank_parameters == parameters[1, False]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_peft_takes_the_spread_ranks_as_they_are(name: str, language_model: Load) -> None:
    model = adapted_model(name, language_model)
    for cut_down in truncations(model, (2,)):
        spread = dict(cut_down.ranks)
    assert len(set(spread.values())) > 1, "not the same everywhere"
    options = {"r": 2, "lora_alpha": 9, "target_modules": "all-linear", "rank_pattern": spread}
    of_peft = build_method(PeftMethod(type="LORA", options=options), "sft", 1).prepare(language_model(name))
    found = {name.removeprefix("base_model.model."): layer.r["default"] for name, layer in layers(of_peft).items()}
    assert found == spread
    even = build_method(LoraMethod(rank=2), "sft", 1).prepare(language_model(name))
    assert learned(of_peft) <= learned(even)


@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_the_adapter_is_as_it_was_afterwards_bit_for_bit(adapted: torch.nn.Module, stop_after: int) -> None:
    before = {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}
    running = truncations(adapted, RANKS)
    for _ in range(stop_after):
        next(running)
    running.close()
    assert all(torch.equal(parameter, before[name]) for name, parameter in adapted.named_parameters())


def test_cut_down_to_its_own_rank_it_computes_the_same(adapted: torch.nn.Module) -> None:
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        expected = adapted.eval()(input_ids=ids).logits
        for _ in truncations(adapted, (6,)):
            torch.testing.assert_close(adapted(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
