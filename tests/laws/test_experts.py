"""Law 45, of mixtures of experts: what the targets say is adapted, at the rank and scale of the specification."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from small_models import PADDING, small_tokenizer, text_windows
from transformers import AutoModelForCausalLM

from tunewise.adapter.file import read_adapter
from tunewise.errors import ModelError, SpecError
from tunewise.lab.adapters.load import AdapterFolder
from tunewise.lab.adapters.merge import MergePlan, merge
from tunewise.lab.adapters.rows import ScoredRows
from tunewise.lab.data.batching import make_batch
from tunewise.lab.methods import Method, build_method, describe
from tunewise.lab.methods.placements import placement_costs
from tunewise.lab.methods.targets import body_parameters, linear_modules
from tunewise.lab.models.load import Base, inner_model, load_tuned
from tunewise.lab.train.loss import example_losses
from tunewise.lab.weights.precision import store_frozen_weights
from tunewise.spec import FullMethod, LoraMethod, PeftMethod

ARCHITECTURES: Any = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "architectures.py"))["ARCHITECTURES"]
MIXTURES = ("Mixtral", "Qwen2-MoE", "Qwen3-MoE", "OLMoE", "gpt-oss", "Phi-3.5-MoE", "GraniteMoE", "GLM-4-MoE")
MIXTURES += ("DeepSeek-V2", "DeepSeek-V3", "Llama 4")
RENAMED = ("Qwen3-MoE", "GLM-4-MoE", "DeepSeek-V2", "DeepSeek-V3")  # peft takes their dense layers for experts
RANK, ALPHA = 2, 6.0
EXAMPLES = text_windows([4 + 7 * i % 100 for i in range(64)], 16)


def base(name: str) -> Base:
    torch.manual_seed(0)
    return Base(AutoModelForCausalLM.from_config(ARCHITECTURES[name].config()).eval(), (), ())


def adapted(name: str, **options: Any) -> tuple[Any, Method]:
    method = build_method(LoraMethod(rank=RANK, alpha=ALPHA, **options), "lm", 1)
    return method.prepare(base(name)), method


def experts_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter with the weights of several experts, found by its shape and name."""
    return {n: p for n, p in model.named_parameters() if p.ndim == 3 and "experts" in n and "lora" not in n}


def learned(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def shaken(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(5)
    for parameter in learned(model).values():
        parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    batch = make_batch(EXAMPLES, range(3), PADDING)
    found: torch.Tensor = model.eval()(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    return found


def loss(model: torch.nn.Module) -> torch.Tensor:
    return example_losses(model, make_batch(EXAMPLES, range(len(EXAMPLES)), PADDING)).nll_B.sum()


def updates(model: Any, before: Base) -> dict[str, torch.Tensor]:
    """Difference of the merged model and its base, by parameter."""
    merged = model.merge_and_unload()
    return {n: p.detach() - before.model.get_parameter(n) for n, p in merged.named_parameters()}


@pytest.mark.parametrize("name", MIXTURES)
def test_law_45_all_linear_adapts_experts_and_every_linear_module_and_nothing_else(name: str) -> None:
    model, method = adapted(name)
    plain = base(name)
    difference = updates(shaken(model), plain)
    weights = {f"{module}.weight" for module in linear_modules(plain)}
    assert {n for n, update in difference.items() if update.abs().max() > 1e-4} == {*weights, *experts_of(plain.model)}
    assert method.targets is not None
    assert set(method.targets.names) == {w.removesuffix(".weight") for w in weights} | {*experts_of(plain.model)}
    sizes = sum(plain.model.get_parameter(n).numel() for n in {*weights, *experts_of(plain.model)})
    assert method.targets.linear_share == pytest.approx(sizes / body_parameters(plain), abs=0.01)  # biases
    assert method.targets.linear_share > 0.95


@pytest.mark.parametrize("variant", ["plain", "rslora"])
@pytest.mark.parametrize("name", MIXTURES)
def test_law_45_every_expert_has_an_update_of_its_own_with_rank_and_scale_of_the_specification(
    name: str, variant: str
) -> None:
    """The update is recomputed from the factors: scale B A of every expert, A on the inputs."""
    model, method = adapted(name, variant=variant, targets=r".*experts\..*")
    scale = ALPHA / (RANK**0.5 if variant == "rslora" else RANK)
    assert method.scale == scale
    layers = {
        n: m for n, m in shaken(model).named_modules() if getattr(m, "num_experts", 1) > 1 and hasattr(m, "lora_A")
    }
    expected = {}
    for place, layer in layers.items():
        num_experts = layer.num_experts
        A_ERN = layer.lora_A["default"].weight.detach().unflatten(0, (num_experts, RANK))
        B_EMR = layer.lora_B["default"].weight.detach().unflatten(1, (RANK, num_experts)).permute(2, 0, 1)
        own = place.removeprefix("base_model.model.").replace(".base_layer", "")
        expected[f"{own}.{layer.parameter_name}"] = scale * B_EMR @ A_ERN
    plain = base(name)
    found = updates(model, plain)
    assert set(expected) == set(experts_of(plain.model))
    for place, update_EMN in expected.items():
        weight = plain.model.get_submodule(place.rpartition(".")[0])
        turned = found[place].transpose(1, 2) if getattr(weight, "is_transposed", False) else found[place]
        torch.testing.assert_close(turned, update_EMN, rtol=0, atol=1e-5)
        assert (torch.linalg.matrix_rank(update_EMN, rtol=1e-4) == RANK).all()


@pytest.mark.parametrize("name", MIXTURES)
def test_law_45_factors_of_experts_count_as_often_as_there_are_experts(name: str) -> None:
    model, method = adapted(name)
    tuned = describe(model, method)
    assert tuned.num_expert_tensors == len(experts_of(base(name).model))
    assert tuned.rank_parameters is not None
    assert tuned.trainable_parameters == RANK * tuned.rank_parameters
    assert placement_costs(base(name))["all-linear"] == tuned.rank_parameters
    wider = build_method(LoraMethod(rank=RANK + 1), "lm", 1).prepare(base(name))
    assert sum(p.numel() for p in learned(wider).values()) == tuned.trainable_parameters + tuned.rank_parameters


@pytest.mark.parametrize("name", MIXTURES)
def test_law_45_an_expert_that_no_token_reaches_does_not_change(name: str) -> None:
    """Law 45: all experts share one tensor, so it has a gradient; that of an unreached expert is 0 everywhere."""
    model, _ = adapted(name)
    torch.testing.assert_close(logits(model), logits(base(name).model), rtol=0, atol=0)
    loss(model.train()).backward()
    assert not [n for n, p in learned(model).items() if p.grad is None]
    plain = base(name)
    build_method(FullMethod(), "lm", 1).prepare(plain)
    loss(plain.model.train()).backward()
    with torch.no_grad():
        for parameter in learned(model).values():
            parameter -= 0.1 * parameter.grad
    found = updates(model, base(name))
    for own, parameter in experts_of(plain.model).items():
        assert parameter.grad is not None
        reached = parameter.grad.flatten(1).abs().amax(1) > 0
        assert torch.equal(found[own].flatten(1).abs().amax(1) > 0, reached)


@pytest.mark.parametrize("name", MIXTURES)
def test_law_15_experts_saved_and_read_back_compute_the_same_and_merged_nearly_so(name: str, tmp_path: Path) -> None:
    model, method = adapted(name)
    expected = logits(shaken(model))
    method.save(model, tmp_path)
    again = load_tuned(base(name), tmp_path)
    assert torch.equal(logits(again), expected)
    assert (logits(base(name).model) - expected).abs().max() > 1e-3
    merged: Any = again
    torch.testing.assert_close(logits(merged.merge_and_unload()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Mixtral", "DeepSeek-V3"])
def test_law_16_an_adapter_of_experts_is_merged_and_its_factors_are_not_read_for_those_of_modules(
    name: str, tmp_path: Path
) -> None:
    plain = base(name)
    plain.model.save_pretrained(tmp_path / "base")
    small_tokenizer().save_pretrained(tmp_path / "base")
    method = build_method(LoraMethod(rank=RANK), "lm", 1)
    model = shaken(method.prepare(Base(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), (), ())))
    method.save(model, tmp_path / "adapter")
    adapter = AdapterFolder.open(tmp_path / "adapter", str(tmp_path / "base"))
    report = merge(
        MergePlan(adapter, "whole", "whole", "fp32", tmp_path / "merged"),
        ScoredRows(tuple(EXAMPLES), "random ids", True, "lm"),
    )
    assert max(form.max_logit_difference for form in report.forms) < 1e-4
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match=r"fused experts \(target_parameters\).*adapter merge. and .verify. work"):
        read_adapter(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dropout": 0.1}, "dropout"),
        ({"variant": "dora"}, "DoRA"),
        ({"variant": "pissa"}, "pissa"),
        ({"variant": "olora"}, "olora"),
        ({"rank": "auto"}, "rank: auto"),
    ],
)
def test_what_experts_cannot_have_is_refused_with_a_way_out_that_works(options: dict[str, Any], said: str) -> None:
    def prepare(**more: Any) -> torch.nn.Module:
        spec = LoraMethod.model_validate({"rank": RANK, **options, **more})
        return build_method(spec, "lm", 1).prepare(base("Mixtral"))

    with pytest.raises(SpecError, match=r"the targets include experts .*gate_up_proj.*4 such tensors") as caught:
        prepare()
    assert said in str(caught.value)
    assert "targets: attention" in str(caught.value)
    assert learned(prepare(targets="attention"))


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}, {"init_lora_weights": "pissa"}]
)
def test_a_peft_arm_is_refused_alike(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="the targets include experts stored as one tensor"):
        build_method(PeftMethod(type="LORA", options=options), "lm", 1).prepare(base("Mixtral"))


def test_a_peft_arm_adapts_what_its_options_name() -> None:
    def names(**options: Any) -> tuple[str, ...]:
        method = build_method(PeftMethod(type="lora", options={"r": RANK, **options}), "lm", 1)
        model: Any = method.prepare(base("Mixtral"))
        layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
        assert method.targets is not None
        assert len(layers) == len(method.targets.names)
        return tuple(sorted({name.split(".", 3)[3] for name in method.targets.names}))

    experts = ("mlp.experts.down_proj", "mlp.experts.gate_up_proj")
    projections = tuple(f"self_attn.{end}_proj" for end in "koqv")
    assert names() == (*experts, *projections)
    assert names(target_parameters=["down_proj"]) == experts[:1]
    assert names(target_parameters=["gate_up_proj"], target_modules=["q_proj"]) == (experts[1], projections[2])
    with pytest.raises(SpecError, match="'gate_upp_proj' matches no linear module.*Did you mean 'gate_up_proj'"):
        names(target_parameters=["gate_upp_proj"])
    pattern = {"gate_up_proj": 5}
    method = build_method(PeftMethod(type="LORA", options={"r": RANK, "rank_pattern": pattern}), "lm", 1)
    ranks = {layer.r["default"] for layer in method.prepare(base("Mixtral")).modules() if isinstance(layer, LoraLayer)}
    assert ranks == {RANK, 5}


@pytest.mark.parametrize("kind", ["LOHA", "IA3", "ADALORA"])
def test_kinds_that_cannot_adapt_a_parameter_say_the_share_that_they_cover(kind: str) -> None:
    method = build_method(PeftMethod(type=kind), "lm", 10)
    method.prepare(base("Mixtral"))
    assert method.targets is not None
    assert method.targets.linear_share < 0.2


@pytest.mark.parametrize("name", RENAMED)
def test_law_22_a_linear_module_whose_update_is_added_to_its_weight_stays_in_fp32(name: str) -> None:
    """In bf16 the weight has 8 bits, and an update of a thousandth of it would be lost."""
    model, method = adapted(name)
    store_frozen_weights(model, "bf16", method.fp32_modules)
    kinds = {n: p.dtype for n, p in inner_model(model).named_parameters() if not p.requires_grad}
    assert kinds["model.layers.0.self_attn.o_proj.base_layer.weight"] == torch.bfloat16
    dense = [kind for n, kind in kinds.items() if n.startswith("model.layers.0.mlp")]
    assert dense == [torch.float32] * 3


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_law_36_at_step_0_full_and_lora_are_one_function_in_bf16(name: str, targets: str) -> None:
    """Autocast leaves grouped products in the type of the weights, so frozen experts must stay in fp32."""

    def begun(method: Method) -> torch.nn.Module:
        model = method.prepare(base(name))
        store_frozen_weights(model, "bf16", method.fp32_modules)
        return model

    def in_bf16(model: torch.nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return logits(model)

    lora = begun(build_method(LoraMethod(rank=RANK, targets=targets), "lm", 1))
    expected = in_bf16(begun(build_method(FullMethod(), "lm", 1)))
    assert torch.equal(in_bf16(lora), expected)
    for parameter in experts_of(lora).values():
        parameter.data = parameter.data.bfloat16()
    assert torch.equal(in_bf16(lora), expected) == (name == "Llama 4"), "its experts alone are multiplied by autocast"


@pytest.mark.parametrize("name", ["Mixtral", "gpt-oss", "DeepSeek-V3"])
def test_law_14_gradients_of_experts_are_the_same_with_gradient_checkpointing(name: str) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = shaken(adapted(name)[0]).train()
        if is_checkpointed:
            inner_model(model).gradient_checkpointing_enable({"use_reentrant": False})
        loss(model).backward()
        gradients.append({n: p.grad for n, p in learned(model).items()})
    plain, again = gradients
    for own, gradient in plain.items():
        torch.testing.assert_close(again[own], gradient, rtol=1e-5, atol=1e-6)


def test_law_55_an_arm_on_experts_is_refused_on_a_base_in_4_bits() -> None:
    with pytest.raises(SpecError, match="cannot be combined with base: nf4, which stores linear weights alone"):
        adapted("Mixtral", base="nf4")
    adapted("Mixtral", base="nf4", targets="attention")
