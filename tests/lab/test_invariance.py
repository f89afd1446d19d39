"""LoRA's scale, start and rate: which changes of the three leave training as it is, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer

from tunewise.lab.methods import build_method
from tunewise.lab.models.load import Base
from tunewise.lab.train.optim import LearningRates, make_optimizer, parameter_groups, rate_factors
from tunewise.spec import LoraMethod, TrainSpec

Load = Callable[..., Base]
NUM_STEPS = 20
RATE, HEAD_RATE = 3e-3, 1e-2
TRAIN = TrainSpec(weight_decay=0.0, clip_norm=1e9, epsilon=1e-30, max_steps=NUM_STEPS)
PLAIN = LoraMethod(rank=4, alpha=32)
OTHER = LoraMethod(rank=4, alpha=2, init_scale=4)  # scale over 16, A begun 4 times as large


def trained(base: Base, spec: LoraMethod, rate: float, train: TrainSpec, head_rate: float = HEAD_RATE) -> torch.Tensor:
    """The logits after 20 steps in float64, from the start that the method gives with one seed; dropout is off."""
    classifies = bool(base.head_modules)
    torch.manual_seed(7)
    model = build_method(spec, "classify" if classifies else "sft", NUM_STEPS).prepare(base).double().eval()
    groups = parameter_groups(model, base.head_modules, train, LearningRates(rate, head_rate if classifies else None))
    optimizer = make_optimizer(groups, train, "cpu")
    first_rates = [group["lr"] for group in optimizer.param_groups]
    ids = torch.randint(4, 64, (NUM_STEPS + 1, 3, 12), generator=torch.Generator().manual_seed(1))
    for step, factor in enumerate(rate_factors(train, NUM_STEPS)):
        for group, first in zip(optimizer.param_groups, first_rates, strict=True):
            group["lr"] = first * factor
        logits = model(input_ids=ids[step]).logits
        if classifies:
            loss = F.cross_entropy(logits, ids[step, :, 0] % 3)
        else:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[step, :, 1:].flatten())
        loss.backward()
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(learning, train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids[-1]).logits
    return found


def test_the_scale_divided_by_16_is_a_start_and_a_rate_times_4(language_model: Load) -> None:
    first = trained(language_model("gpt2"), PLAIN, RATE, TRAIN)
    torch.testing.assert_close(trained(language_model("gpt2"), OTHER, 4 * RATE, TRAIN), first, rtol=1e-9, atol=1e-9)
    untrained = trained(language_model("gpt2"), PLAIN, 1e-12, TRAIN)
    assert (first - untrained).abs().max() > 0.1, "training moved something"


def test_magnitudes_of_dora_learn_at_the_same_rate_so_it_is_another_training(language_model: Load) -> None:
    plain, other = (spec.replace(variant="dora") for spec in (PLAIN, OTHER))
    first = trained(language_model("gpt2"), plain, RATE, TRAIN)
    assert (trained(language_model("gpt2"), other, 4 * RATE, TRAIN) - first).abs().max() > 1e-3


def test_rslora_with_its_alpha_over_the_root_of_the_rank_is_plain_lora(language_model: Load) -> None:
    stabilised = PLAIN.replace(variant="rslora", alpha=16)
    first = trained(language_model("gpt2"), PLAIN, RATE, TRAIN)
    assert torch.equal(trained(language_model("gpt2"), stabilised, RATE, TRAIN), first)


def test_a_decay_that_is_divided_by_the_same_factor_keeps_them_equal_and_one_that_is_not_does_not(
    language_model: Load,
) -> None:
    decayed = TRAIN.replace(weight_decay=1.0)
    first = trained(language_model("gpt2"), PLAIN, RATE, decayed)
    rescaled = trained(language_model("gpt2"), OTHER, 4 * RATE, decayed.replace(weight_decay=0.25))
    torch.testing.assert_close(rescaled, first, rtol=1e-9, atol=1e-9)
    assert (trained(language_model("gpt2"), OTHER, 4 * RATE, decayed) - first).abs().max() > 1e-3


@pytest.mark.parametrize("broken", [{"clip_norm": 0.3}, {"epsilon": 1e-3}])
def test_clipping_and_a_large_epsilon_make_them_two(broken: dict[str, Any], language_model: Load) -> None:
    train = TRAIN.replace(**broken)
    first = trained(language_model("gpt2"), PLAIN, RATE, train)
    assert (trained(language_model("gpt2"), OTHER, 4 * RATE, train) - first).abs().max() > 1e-5


def test_a_head_in_a_group_of_its_own_keeps_its_rate(classifier: Load) -> None:
    first = trained(classifier("bert"), PLAIN, RATE, TRAIN)
    torch.testing.assert_close(trained(classifier("bert"), OTHER, 4 * RATE, TRAIN), first, rtol=1e-9, atol=1e-9)
    with_the_adapter = trained(classifier("bert"), OTHER, 4 * RATE, TRAIN, head_rate=4 * HEAD_RATE)
    assert (with_the_adapter - first).abs().max() > 1e-3


def test_init_scale_is_a_factor_on_the_first_values_of_a_alone(language_model: Load) -> None:
    def layers(spec: LoraMethod) -> list[Any]:
        torch.manual_seed(7)
        model = build_method(spec, "sft", 1).prepare(language_model("llama"))
        return [module for module in model.modules() if isinstance(module, LoraLayer)]

    for plain, other in zip(layers(PLAIN), layers(PLAIN.replace(init_scale=4)), strict=True):
        assert torch.equal(other.lora_A["default"].weight, 4 * plain.lora_A["default"].weight)
        assert not other.lora_B["default"].weight.any()
        assert other.scaling == plain.scaling
