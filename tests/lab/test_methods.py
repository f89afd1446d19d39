"""Laws of the methods: what learns, at which scale, from which start, and what is saved."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, GPT2Config

from tunewise.errors import SpecError
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Example, make_batch
from tunewise.lab.methods import Method, build_method, describe
from tunewise.lab.methods.peft_methods import AnyPeft, Lora
from tunewise.lab.methods.reallocating import REALLOCATING, AdaLora
from tunewise.lab.models.load import Base, load_tuned
from tunewise.lab.train.loop import Loop, train
from tunewise.lab.train.loss import example_losses
from tunewise.lab.weights.precision import assert_masters
from tunewise.spec import FullMethod, HeadMethod, LoraMethod, PeftMethod

Load = Callable[..., Base]
Examples = Callable[..., list[Example]]
EVERY_CLASSIFIER = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "gpt2", "llama", "qwen2", "opt")
TRAINED = {
    "full": FullMethod(),
    "head": HeadMethod(),
    "lora": LoraMethod(rank=2),
    "rslora": LoraMethod(rank=4, variant="rslora", targets="qkv"),
    "ia3": PeftMethod(type="IA3"),
}


def prepared(method: Any, base: Base, task: str = "sft") -> torch.nn.Module:
    return build_method(method, task, num_steps=10).prepare(base)  # type: ignore[arg-type]


def learning(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def logits(model: torch.nn.Module, examples: list[Example]) -> torch.Tensor:
    batch = make_batch(examples, range(len(examples)), padding=0)
    model.eval()
    found: torch.Tensor = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    return found


@torch.no_grad()
def shake(model: torch.nn.Module, seed: int = 5) -> None:
    """Move everything that learns, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for p in learning(model).values():
        p += 0.05 * torch.randn(p.shape, generator=generator)


# --- the figures of the field


def test_lora_r8_on_qkv_of_gpt2_small_trains_294912_of_124734720_parameters() -> None:
    with torch.device("meta"):
        base = Base(AutoModelForCausalLM.from_config(GPT2Config()), (), ())
        method = Lora(LoraMethod(rank=8, targets="qkv"), "sft")
        tuned = describe(method.prepare(base), method)
    assert (tuned.trainable_parameters, tuned.total_parameters) == (294_912, 124_734_720)
    assert round(100 * tuned.trainable_parameters / tuned.total_parameters, 4) == 0.2364
    assert (tuned.num_target_modules, tuned.scale) == (12, 4.0)


def test_full_fine_tuning_of_gpt2_small_trains_every_parameter_tied_weights_once() -> None:
    with torch.device("meta"):
        base = Base(AutoModelForCausalLM.from_config(GPT2Config()), (), ())
        method = build_method(FullMethod(), "sft", 1)
        tuned = describe(method.prepare(base), method)
    assert tuned.trainable_parameters == tuned.total_parameters == 124_439_808
    assert (tuned.scale, tuned.num_target_modules, tuned.linear_share) == (None, None, None)


# --- trainable parameters


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_full_trains_everything(name: str, classifier: Load) -> None:
    model = prepared(FullMethod(), classifier(name), "classify")
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", EVERY_CLASSIFIER)
def test_head_trains_the_head_and_nothing_else(name: str, classifier: Load) -> None:
    base = classifier(name)
    model = prepared(HeadMethod(), base, "classify")
    expected = {
        f"{head}.{p}" for head in base.head_modules for p, _ in base.model.get_submodule(head).named_parameters()
    }
    assert set(learning(model)) == expected
    assert set(base.new_parameters) <= expected


def test_head_without_a_head_is_refused(language_model: Load) -> None:
    with pytest.raises(SpecError, match="needs a classification head"):
        prepared(HeadMethod(), language_model("gpt2"))


@pytest.mark.parametrize("name", EVERY_CLASSIFIER)
def test_lora_trains_adapters_and_every_weight_that_the_checkpoint_lacks(name: str, classifier: Load) -> None:
    base = classifier(name)
    new = sum(base.model.get_parameter(parameter).numel() for parameter in base.new_parameters)
    model = prepared(LoraMethod(rank=2), base, "classify")
    heads = {n: p for n, p in learning(model).items() if "lora_" not in n}
    assert new > 0
    assert sum(p.numel() for p in heads.values()) == new
    assert all(any(f".{head}." in n for head in base.head_modules) for n in heads)


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("kind", TRAINED)
def test_what_learns_is_fp32_in_every_arm(name: str, kind: str, classifier: Load) -> None:
    model = prepared(TRAINED[kind], classifier(name), "classify")
    assert_masters(model)
    assert learning(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_master_weight_in_bf16_is_our_mistake(language_model: Load) -> None:
    model = prepared(LoraMethod(), language_model("llama"))
    first = next(iter(learning(model).values()))
    first.data = first.data.to(torch.bfloat16)
    with pytest.raises(AssertionError, match="not fp32"):
        assert_masters(model)


# --- where it starts


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "deberta-v2"])
@pytest.mark.parametrize("kind", ["lora", "rslora", "ia3"])
def test_an_untrained_adapter_changes_nothing(name: str, kind: str, classifier: Load, examples_of: Examples) -> None:
    examples = examples_of([7, 12, 3], classify=True)
    expected = logits(classifier(name).model, examples)
    assert torch.equal(logits(prepared(TRAINED[kind], classifier(name), "classify"), examples), expected)


@pytest.mark.parametrize("name", EVERY_CLASSIFIER)
def test_a_new_head_is_the_same_in_every_arm_with_one_seed_and_another_with_another(
    name: str, classifier: Load
) -> None:
    def heads(method: Any, seed: int) -> list[torch.Tensor]:
        model = prepared(method, classifier(name, seed), "classify")
        found = {n.replace("modules_to_save.default.", ""): p for n, p in learning(model).items() if "lora_" not in n}
        return [found[n].detach() for n in sorted(found)]

    head, lora = heads(HeadMethod(), 1), heads(LoraMethod(rank=2), 1)
    assert len(head) == len(lora)
    assert all(torch.equal(one, other) for one, other in zip(head, lora, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(head, heads(HeadMethod(), 2), strict=True))


def test_the_adapter_is_drawn_from_the_seed(language_model: Load) -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [p.detach() for p in learning(prepared(LoraMethod(), language_model("gpt2"))).values()]

    assert all(torch.equal(one, other) for one, other in zip(drawn(1), drawn(1), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(drawn(1), drawn(2), strict=True))


# --- LoRA's scale and reach


@pytest.mark.parametrize(
    ("spec", "scale"),
    [
        (LoraMethod(rank=8), 4.0),
        (LoraMethod(rank=16, alpha=8), 0.5),
        (LoraMethod(rank=8, variant="rslora"), 32 / math.sqrt(8)),
        (LoraMethod(rank=3, alpha=10, variant="rslora"), 10 / math.sqrt(3)),
    ],
)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_update_is_scale_times_b_times_a(name: str, spec: LoraMethod, scale: float, language_model: Load) -> None:
    method = Lora(spec, "sft")
    model: Any = method.prepare(language_model(name))
    before = {n: p.clone() for n, p in language_model(name).model.named_parameters()}
    shake(model)
    factors = {n: p.detach().clone() for n, p in learning(model).items()}
    merged = dict(model.merge_and_unload().named_parameters())
    assert method.scale == scale
    assert method.targets is not None
    for target in method.targets.names:
        lora = f"base_model.model.{target}.lora_{{}}.default.weight"
        update = scale * factors[lora.format("B")] @ factors[lora.format("A")]
        moved = merged[f"{target}.weight"].detach() - before[f"{target}.weight"]
        # GPT-2 stores its weights transposed
        torch.testing.assert_close(moved, update.T if name == "gpt2" else update, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "phi3"])
@pytest.mark.parametrize("targets", ["qkv", "attention", "mlp", "all-linear", ".*0.*"])
def test_exactly_the_resolved_targets_are_adapted(name: str, targets: str, language_model: Load) -> None:
    method = Lora(LoraMethod(rank=2, targets=targets), "sft")
    model = method.prepare(language_model(name))
    adapted = [n.removeprefix("base_model.model.") for n, m in model.named_modules() if isinstance(m, LoraLayer)]
    assert method.targets is not None
    assert adapted == list(method.targets.names)
    tuned = describe(model, method)
    assert tuned.num_target_modules == len(adapted)
    assert tuned.linear_share == method.targets.linear_share


# --- saved and read back


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma"])  # tied and untied embeddings
@pytest.mark.parametrize("kind", ["full", "lora", "rslora", "ia3"])
def test_a_tuned_language_model_loads_with_the_plain_libraries(
    name: str, kind: str, language_model: Load, examples_of: Examples, tmp_path: Path
) -> None:
    examples = examples_of([7, 12, 3])
    method = build_method(TRAINED[kind], "sft", 10)
    model = method.prepare(language_model(name))
    shake(model)
    method.save(model, tmp_path)
    assert torch.equal(logits(load_tuned(language_model(name), tmp_path), examples), logits(model, examples))
    auto = AutoModelForCausalLM if kind == "full" else AutoPeftModelForCausalLM
    assert torch.equal(logits(auto.from_pretrained(tmp_path), examples), logits(model, examples))


# --- any other peft method


def test_ia3_scales_what_enters_the_mlps_last_layer_and_what_leaves_the_others(
    language_model: Load, tmp_path: Path
) -> None:
    method = AnyPeft(PeftMethod(type="IA3"), "sft", 10)
    model: Any = method.prepare(language_model("llama"))
    kinds = {
        n.removeprefix("base_model.model."): m.is_feedforward
        for n, m in model.named_modules()
        if hasattr(m, "is_feedforward")
    }
    assert len(kinds) == 14
    assert {name for name, feeds in kinds.items() if feeds} == {f"model.layers.{i}.mlp.down_proj" for i in range(2)}
    method.save(model, tmp_path)
    assert set(PeftConfig.from_pretrained(tmp_path).feedforward_modules) < set(method.targets.names)  # type: ignore[union-attr]
    chosen = {"target_modules": ["k_proj", "up_proj"], "feedforward_modules": ["up_proj"]}
    model = prepared(PeftMethod(type="ia3", options=chosen), language_model("llama"))
    kinds = {n: m.is_feedforward for n, m in model.named_modules() if hasattr(m, "is_feedforward")}
    assert {n.rpartition(".")[2] for n, feeds in kinds.items() if feeds} == {"up_proj"}


def test_vera_trains_and_is_read_back(language_model: Load, examples_of: Examples, tmp_path: Path) -> None:
    options = {"r": 4, "target_modules": "qkv"}
    method = AnyPeft(PeftMethod(type="vera", options=options), "sft", 20)
    model = method.prepare(language_model("gpt2"))
    losses = trained(model, method, examples_of([9, 5, 12]), num_steps=20)
    assert losses[-1] < losses[0]
    method.save(model, tmp_path)
    again = load_tuned(language_model("gpt2"), tmp_path)
    examples = examples_of([7, 12, 3], seed=1)
    assert torch.equal(logits(again, examples), logits(model, examples))


def trained(model: torch.nn.Module, method: Method, examples: list[Example], num_steps: int) -> list[float]:
    batch = make_batch(examples, range(len(examples)), padding=0)
    loop = Loop(
        optimizer=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05),
        rate_factors=[1.0] * num_steps,
        clip_norm=1.0,
        compute=Compute("cpu", "fp32"),
        after_step=method.after_step,
    )
    return [step.loss for step in train(model, [[batch]] * num_steps, loop)]


def test_adalora_gives_up_rank_while_it_trains(language_model: Load, examples_of: Examples) -> None:
    options = {"init_r": 4, "target_r": 1, "tinit": 1, "tfinal": 2, "deltaT": 1, "target_modules": "qkv"}
    method = AdaLora(PeftMethod(type="ADALORA", options=options), "sft", 8)
    model: Any = method.prepare(language_model("gpt2"))
    losses = trained(model, method, examples_of([9, 5, 12]), num_steps=8)
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    singular = torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_E" in n])
    assert int((singular != 0).sum()) == 2, "one rank is left for each of the two target modules, on average"


def test_every_tuner_that_acts_after_a_step_is_given_its_step() -> None:
    acting = {kind.value for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items() if hasattr(tuner, "update_and_allocate")}
    assert "ADALORA" in acting <= set(REALLOCATING)


@pytest.mark.parametrize("kind", REALLOCATING)
def test_such_a_tuner_is_told_the_step(kind: str) -> None:
    asked: list[int] = []
    model: Any = SimpleNamespace(base_model=SimpleNamespace(update_and_allocate=asked.append))
    build_method(PeftMethod(type=kind.lower()), "sft", 9).after_step(model, 7)  # a type may be given in small letters
    assert asked == [7]


def test_a_package_that_a_method_needs_and_that_is_missing_is_named(
    language_model: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SpecError, match="peft rejects ADAMSS .*scikit-learn"):
        prepared(PeftMethod(type="ADAMSS"), language_model("llama"))


def test_adalora_whose_schedule_does_not_fit_the_steps_is_refused(language_model: Load) -> None:
    with pytest.raises(SpecError, match="peft rejects ADALORA .*budgeting phase"):
        prepared(PeftMethod(type="ADALORA", options={"tinit": 9, "tfinal": 9}), language_model("gpt2"))


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_virtual_tokens_shift_no_target(name: str, kind: str, language_model: Load, examples_of: Examples) -> None:
    model = prepared(PeftMethod(type=kind, options={"num_virtual_tokens": 3}), language_model(name)).eval()
    examples = examples_of([9, 5, 12])
    with torch.no_grad():
        together = example_losses(model, make_batch(examples, [0, 1, 2], padding=0)).nll_B
        for example, nll in zip(examples, together.tolist(), strict=True):
            ids = torch.tensor([example.input_ids])
            logits_TV = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(example.input_ids) :]
            first = example.supervised.index(True)
            alone = torch.nn.functional.cross_entropy(logits_TV[first - 1 : -1], ids[0, first:], reduction="sum")
            assert nll == pytest.approx(float(alone), rel=1e-5)


def test_virtual_tokens_before_a_classification_head_are_refused(classifier: Load) -> None:
    spec = PeftMethod(type="PROMPT_TUNING", options={"num_virtual_tokens": 3})
    with pytest.raises(SpecError, match="virtual tokens before the text"):
        prepared(spec, classifier("gpt2"), "classify")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (PeftMethod(type="LOAR"), "unknown peft type 'LOAR'. Did you mean 'LORA'"),
        (
            PeftMethod(type="IA3", options={"feedforward_module": []}),
            "'feedforward_module'. Did you mean 'feedforward_modules'",
        ),
        (PeftMethod(type="LORA", options={"r": 0}), "peft rejects LORA with {'r': 0}"),
        (
            PeftMethod(type="LORA", options={"layers_to_transform": [0]}),
            "'layers_to_transform': use target_modules",
        ),
        (PeftMethod(type="LORA", options={"target_modules": "qvk"}), "Did you mean 'qkv'"),
        (PeftMethod(type="LORA", options={"task_type": "CAUSAL_LM"}), "peft rejects LORA"),
        (PeftMethod(type="C3A", options={"block_size": 7}), "peft rejects C3A"),
    ],
)
def test_what_peft_would_refuse_or_ignore_is_refused_by_name(
    spec: PeftMethod, message: str, language_model: Load
) -> None:
    with pytest.raises(SpecError) as caught:
        prepared(spec, language_model("llama"))
    assert message in str(caught.value)
