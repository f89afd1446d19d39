"""Laws of the plan of a mixture of experts: the step is traced and checked, and counts the experts of each token."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers import DeepseekV3Config, MixtralConfig, PreTrainedConfig, Qwen3MoeConfig

from tunewise.lab.plan.arm import plan_arm
from tunewise.lab.plan.kernels import try_kernels
from tunewise.lab.plan.meta_model import blank_base, small_config
from tunewise.lab.plan.setting import Kernels, PlanContext
from tunewise.lab.plan.workload import assumed_examples, workload
from tunewise.records.plan import ArmPlan
from tunewise.spec import FullMethod, LoraMethod, Method, TrainSpec

ARCHITECTURES: Any = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "architectures.py"))["ARCHITECTURES"]


def plan_of(config: PreTrainedConfig, spec: Method) -> ArmPlan:
    train = TrainSpec(batch_size=2)
    setting = PlanContext(config, "lm", 0, (), train, 3, "cpu", "fp32", None)
    kernels = try_kernels(setting, spec)
    batching = (kernels or Kernels(None, 0)).batching(train)
    return plan_arm(setting, workload(assumed_examples("lm", 2, 16), train, 0, batching), spec, kernels, 10**10)


@pytest.mark.parametrize("spec", [LoraMethod(rank=2), FullMethod()], ids=["lora", "full"])
@pytest.mark.parametrize("name", ["Mixtral", "Qwen3-MoE", "gpt-oss", "OLMoE"])
def test_the_step_of_a_mixture_is_traced_and_its_operations_are_those_of_a_real_step(name: str, spec: Method) -> None:
    plan = plan_of(ARCHITECTURES[name].config(), spec)
    assert plan.is_checked
    assert plan.step is not None
    assert plan.note is None


@pytest.mark.parametrize("name", ["DeepSeek-V3", "Llama 4"])
def test_a_step_that_makes_its_views_in_another_way_is_planned_as_an_estimate(name: str) -> None:
    plan = plan_of(ARCHITECTURES[name].config(), LoraMethod(rank=2))
    assert not plan.is_checked
    assert plan.step is not None
    assert plan.flops_per_token is not None


def test_another_expert_for_each_token_costs_its_products_and_those_of_its_gradients() -> None:
    """Forward, gradient of the input, gradient of the weight: 2 FLOPs each for every weight of an expert."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    one, two = (
        plan_of(
            MixtralConfig(
                **sizes, num_key_value_heads=2, vocab_size=128, num_local_experts=4, num_experts_per_tok=number
            ),
            FullMethod(),
        )
        for number in (1, 2)
    )
    assert one.flops_per_token is not None
    assert two.flops_per_token is not None
    assert two.flops_per_token - one.flops_per_token == 6 * 2 * (3 * 32 * 48)


@pytest.mark.parametrize("config", [DeepseekV3Config(), Qwen3MoeConfig()], ids=["DeepSeek-V3", "Qwen3-MoE"])
def test_the_small_model_of_a_published_mixture_has_experts_and_is_small(config: PreTrainedConfig) -> None:
    model = blank_base(small_config(config), "lm", 0, ()).model
    assert [name for name, _ in model.named_parameters() if name.endswith("experts.gate_up_proj")]
    assert sum(p.numel() for p in model.parameters()) < 10_000_000
