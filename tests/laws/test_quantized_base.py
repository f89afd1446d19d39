"""Law 55: an arm on a base in 4 bits is the same arm on the whole base with rounded weights, and nothing else."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerFast

from builders import make_run_spec
from lab.test_run import Laboratory
from lab_fixtures import make_examples
from tunewise.errors import SpecError
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import make_batch
from tunewise.lab.methods import build_method
from tunewise.lab.models.load import LINEAR, Base
from tunewise.lab.train.begin import make_trainable
from tunewise.lab.train.loop import Loop, train
from tunewise.lab.train.loss import example_losses
from tunewise.lab.train.optim import LearningRates
from tunewise.lab.weights import quantized
from tunewise.lab.weights.quantized import QuantizedLinear, dequantized, num_weights, quantize, stored_bytes
from tunewise.spec import BaseMethod, LoraMethod, Precision, Quantization, TrainSpec

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes (the extra 'quant')")
KINDS: tuple[Quantization, ...] = ("nf4", "nf4-double")
BATCH = make_batch(make_examples([9, 5, 12]), range(3), padding=0)
Bases = Callable[[str], Base]


def packed(base: Base, kind: Quantization) -> Base:
    """The base in 4 bits."""
    quantize(base.model, base.head_modules, kind, "cpu")
    return base


def with_rounded_weights(base: Base, kind: Quantization) -> Base:
    """The whole base, its weights replaced by those that 4 bits stand for."""
    for name, module in base.model.named_modules():
        if isinstance(module, LINEAR) and module is not base.model.get_output_embeddings():
            rounded = dequantized(QuantizedLinear(module, kind, "cpu").weight)
            own = base.model.get_submodule(name).weight
            own.data = rounded.t().contiguous() if own.shape != module_shape(rounded, module) else rounded
    return base


def module_shape(rounded: torch.Tensor, module: torch.nn.Module) -> torch.Size:
    """Shape of the weight of a Linear; GPT-2's Conv1D holds it transposed."""
    return rounded.shape if isinstance(module, torch.nn.Linear) else torch.Size()


def learned(base: Base, method: LoraMethod, precision: Precision) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of four steps, and what was learned."""
    torch.manual_seed(3)
    built = build_method(method.replace(base=None), "sft", 4)
    model = built.prepare(base)
    spec, compute = TrainSpec(weight_decay=0), Compute("cpu", precision)
    optimizer = make_trainable((model, built), (), spec, LearningRates(2e-2, None), compute)
    loop = Loop(optimizer, iter([1.0] * 4), 1e9, compute, built.after_step)
    losses = [step.loss for step in train(model, ([BATCH] for _ in range(4)), loop)]
    return losses, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("variant", ["plain", "dora"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_law_55_training_equals_that_on_rounded_weights_to_the_bit(
    name: str, variant: Any, precision: Precision, language_model: Bases
) -> None:
    """Law 55: losses and adapters after four steps are those of the whole base with the same, rounded, weights."""
    method = LoraMethod(rank=4, variant=variant, base="nf4-double")
    losses, adapters = learned(packed(language_model(name), "nf4-double"), method, precision)
    expected, others = learned(with_rounded_weights(language_model(name), "nf4-double"), method, precision)
    whole, _ = learned(language_model(name), method, precision)
    assert losses != whole, "rounding changes something"
    if variant == "plain":
        assert losses == expected
        assert all(torch.equal(adapters[key], others[key]) for key in others)
    else:  # peft dequantizes for DoRA's norms, and sums in another order
        assert losses == pytest.approx(expected, rel=2e-3 if precision == "bf16" else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_law_55_gradients_equal_those_of_the_librarys_own_layers(
    kind: Quantization, model_folder: Callable[[str], Path], language_model: Bases
) -> None:
    """Law 55: transformers, peft and bitsandbytes, used as their documentation says, give the same gradients."""
    rounded = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=kind == "nf4-double",
        bnb_4bit_compute_dtype=torch.float32,
    )
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"])
    usual = AutoModelForCausalLM.from_pretrained(model_folder("llama"), quantization_config=rounded)
    found = []
    for base in (usual, packed(language_model("llama"), kind).model):
        torch.manual_seed(0)
        model = get_peft_model(base, config).train()
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
        example_losses(model, BATCH).nll_B.sum().backward()
        found.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_law_55_only_linear_weights_of_the_body_are_packed_and_all_are_counted(
    kind: Quantization, language_model: Bases, classifier: Bases
) -> None:
    """Law 55: embeddings, norms, biases and heads stay whole; a packed weight counts as the weights it stands for."""
    for load in (language_model("llama"), classifier("bert")):
        before = {name: parameter.numel() for name, parameter in load.model.named_parameters()}
        model = packed(load, kind).model
        assert {name: num_weights(parameter) for name, parameter in model.named_parameters()} == before
        linear = {name: module for name, module in model.named_modules() if isinstance(module, LINEAR)}
        whole = {name for name, module in linear.items() if not isinstance(module, QuantizedLinear)}
        assert whole == ({"lm_head"} if load.head_modules == () else set(load.head_modules))
        for module in linear.values():
            if isinstance(module, QuantizedLinear):
                state = module.weight.quant_state
                scales = state.absmax.nbytes + (state.state2.absmax.nbytes if kind == "nf4-double" else 0)
                assert module.weight.nbytes + scales == pytest.approx(
                    stored_bytes(num_weights(module.weight), kind), abs=4
                )


@pytest.mark.parametrize("task", ["sft", "classify"])
def test_law_55_a_confirmed_run_is_read_back_onto_the_rounded_base(
    task: str, tmp_path: Path, model_folder: Callable[[str], Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Law 55: the scores of the record are those of the saved adapter on a base that plain libraries rounded."""
    name = "llama" if task == "sft" else "bert"
    lab = Laboratory(tmp_path, task, model_folder(name), make_examples)
    method = LoraMethod(rank=4, base="nf4")
    record = lab.run(method)
    scores = {row["example"]: row for row in lab.scores(record, "test")}
    assert record.tuned is not None
    assert record.tuned.linear_share == 1
    base_of = lab.run(BaseMethod(base="nf4"), "base")
    whole = lab.run(BaseMethod(), "base")
    assert lab.scores(base_of, "test") != lab.scores(whole, "test")
    if task == "classify":
        return
    rounded = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(model_folder(name), quantization_config=rounded)
    tuned = PeftModel.from_pretrained(base, lab.weights(record)).train()  # in eval mode the library rounds the scales
    for row, example in enumerate(lab.examples["test"]):
        with torch.no_grad():
            loss = float(example_losses(tuned, make_batch(lab.examples["test"], [row], padding=0)).nll_B)
        assert loss == pytest.approx(scores[example.example]["nll"], rel=1e-4)


def test_law_55_what_is_not_asked_for_leaves_no_trace() -> None:
    """Law 55: ids, declarations and folders from before `base` existed stay valid."""
    assert "base" not in LoraMethod().model_dump()
    assert "base" not in json.loads(BaseMethod().model_dump_json())
    assert LoraMethod(base="nf4").model_dump()["base"] == "nf4"
    ids = [make_run_spec(method=LoraMethod(base=kind)).run_id for kind in (None, *KINDS)]
    assert len(set(ids)) == 3
    assert LoraMethod.model_validate(LoraMethod(base="nf4").model_dump()).base == "nf4"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"base": "int8"}, "also rounds the inputs of every layer"),
        ({"base": "nf4", "variant": "pissa"}, "pissa is initialized from the weight, so base"),
        ({"base": "nf4", "variant": "olora"}, "olora is initialized from the weight, so base"),
        ({"variant": "loftq"}, "base: nf4"),
    ],
)
def test_law_55_what_would_not_be_that_arm_is_refused_by_name(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LoraMethod.model_validate(given)


def test_law_55_without_the_library_one_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized.bitsandbytes.cache_clear()
    monkeypatch.setattr(quantized, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(SpecError, match=r"pip install 'tunewise\[quant\]'"):
        quantized.bitsandbytes()
