"""Laws that a device could break: here on the CPU, and on a CUDA card where there is one (`-k cuda`)."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lab.test_run import Laboratory
from lab_fixtures import CUTS, LENGTHS, Gradients, make_examples, relative_difference, without_dropout
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, Example, make_batch
from tunewise.lab.evaluate.score import score
from tunewise.lab.methods import build_method
from tunewise.lab.models.load import Base, load_base
from tunewise.lab.models.packing import fit_attention
from tunewise.lab.run.story import Run
from tunewise.lab.train.checkpoint import Checkpoints, StoppedError
from tunewise.lab.train.loop import Loop, train
from tunewise.lab.weights.precision import store_frozen_weights
from tunewise.lab.weights.quantized import dequantized, quantize
from tunewise.spec import Device, FullMethod, LoraMethod, RunSpec

needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
on_devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_card)])
ARMS = {"full": FullMethod(), "lora": LoraMethod(rank=4)}
Bases = Callable[[str], Base]
Folder = Callable[[str], Path]


def on(device: Device, base: Base, method: Any) -> torch.nn.Module:
    """The arm's model on the device, with an adapter that changes something."""
    torch.manual_seed(0)
    model = without_dropout(build_method(method, "sft", 1).prepare(base))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.to(device)


def gradients(model: torch.nn.Module, examples: Sequence[Example], cuts: Any, device: Device) -> Gradients:
    """What the optimizer gets in one step, at rate 0."""
    found: Gradients = {}

    def keep(model: torch.nn.Module, step: int) -> None:
        found.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    learning = [p for p in model.parameters() if p.requires_grad]
    loop = Loop(torch.optim.SGD(learning, lr=0.0), iter([1.0]), 1e9, Compute(device, "fp32"), keep)
    list(train(model, [[make_batch(examples, piece, 0) for piece in cuts]], loop))
    return found


@on_devices
@pytest.mark.parametrize("arm", ARMS)
def test_law_01_a_gradient_does_not_depend_on_the_micro_batches(
    arm: str, device: Device, language_model: Bases
) -> None:
    model, examples = on(device, language_model("llama"), ARMS[arm]), make_examples(LENGTHS)
    expected = gradients(model, examples, CUTS["8 at once"], device)
    assert {gradient.device.type for gradient in expected.values()} == {device}
    for name, cuts in CUTS.items():
        assert relative_difference(gradients(model, examples, cuts, device), expected) < 1e-5, name


@on_devices
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_law_11_a_packed_example_has_the_loss_that_it_has_alone(
    name: str, device: Device, language_model: Bases
) -> None:
    model, examples = language_model(name).model.to(device), make_examples(LENGTHS)
    compute = Compute(device, "fp32")
    alone = [row["nll"] for row in score(model, examples, Batching(1, 0), compute)]
    packed_length = fit_attention(model, None, "sft")
    assert packed_length >= max(LENGTHS)
    packed = [row["nll"] for row in score(model, examples, Batching(1000, 0, packed_length), compute)]
    assert packed == pytest.approx(alone, rel=1e-5)


@on_devices
@torch.no_grad()
def test_law_36_full_and_lora_begin_as_one_function_to_the_bit(device: Device, language_model: Bases) -> None:
    ids_BT, found = torch.tensor([make_examples([16])[0].input_ids], device=device), []
    for method in ARMS.values():
        built = build_method(method, "sft", 1)
        model = built.prepare(language_model("llama")).to(device).eval()
        store_frozen_weights(model, "bf16", built.fp32_modules)
        with Compute(device, "bf16").autocast():
            found.append(model(input_ids=ids_BT).logits)
    assert torch.equal(*found)


@on_devices
@torch.no_grad()
def test_law_55_a_base_in_4_bits_is_the_base_with_rounded_weights(device: Device, language_model: Bases) -> None:
    pytest.importorskip("bitsandbytes")
    ids_BT = torch.tensor([make_examples([16])[0].input_ids], device=device)
    packed, whole = language_model("llama").model, language_model("llama").model.to(device)
    quantize(packed, (), "nf4-double", device)
    packed.to(device)
    before = whole(input_ids=ids_BT).logits
    for name, module in packed.named_modules():
        if hasattr(getattr(module, "weight", None), "quant_state"):
            assert module.weight.device.type == device
            whole.get_submodule(name).weight.copy_(dequantized(module.weight))
    for precision in ("fp32", "bf16"):
        with Compute(device, precision).autocast():  # type: ignore[arg-type]
            expected = whole(input_ids=ids_BT).logits
            assert torch.equal(packed(input_ids=ids_BT).logits, expected)
    assert not torch.equal(before, expected)


@on_devices
@torch.no_grad()
def test_law_56_a_narrow_base_computes_the_same_to_the_bit(
    device: Device, model_folder: Folder, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_pretrained(model_folder("qwen2"), dtype=torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids_BT = torch.tensor([make_examples([16])[0].input_ids], device=device)
    narrow, wide = (
        load_base(str(tmp_path), "sft", (), tokenizer, False, narrow).model.to(device) for narrow in (True, False)
    )
    assert sum(p.nbytes for p in narrow.parameters()) < sum(p.nbytes for p in wide.parameters())
    for precision in ("fp32", "bf16"):
        with Compute(device, precision).autocast():  # type: ignore[arg-type]
            assert torch.equal(narrow(input_ids=ids_BT).logits, wide(input_ids=ids_BT).logits)


@on_devices
@pytest.mark.parametrize("arm", ["full", "lora", "qlora"])
def test_law_15_a_run_trains_there_and_its_scores_are_those_of_plain_torch_here(
    arm: str, device: Device, model_folder: Folder, tmp_path: Path
) -> None:
    """Law 15: what is saved and read back on a CPU has the test loss that the run on the device has recorded."""
    if arm == "qlora":
        pytest.importorskip("bitsandbytes")
    lab = Laboratory(tmp_path, "sft", model_folder("llama"), make_examples)
    method = LoraMethod(rank=4, base="nf4") if arm == "qlora" else ARMS[arm]
    record = lab.run(method, device=device, precision="bf16")
    assert record.usage is not None
    assert record.usage.train_memory is not None
    assert record.usage.train_memory.peak_bytes
    scored = [row["nll"] for row in lab.scores(record, "test")]
    base, saved = (
        AutoModelForCausalLM.from_pretrained(of, dtype=torch.float32) for of in (lab.model, lab.weights(record))
    )
    assert scored != pytest.approx(lab.nll(base, "test"), rel=1e-3), "it has learned something"
    if arm != "qlora":  # its scores are those of the base in 4 bits
        assert scored == pytest.approx(lab.nll(saved, "test"), rel=1e-4)


@on_devices
def test_law_25_a_run_that_was_stopped_continues_there(device: Device, model_folder: Folder, tmp_path: Path) -> None:
    """Law 25: to the same bits on a CPU; a card sums in an order of its own, so there nearly."""
    labs = [Laboratory(tmp_path / name, "sft", model_folder("llama"), make_examples) for name in ("whole", "stopped")]
    whole = labs[0].run(LoraMethod(rank=4), device=device)
    spec = labs[1].spec(LoraMethod(rank=4), device=device)
    with pytest.raises(StoppedError):
        stopped_after(3, labs[1], spec)
    continued = labs[1].run(LoraMethod(rank=4), device=device)
    assert continued.usage is not None
    found, expected = ([e.nll for e in record.evaluations] for record in (continued, whole))
    assert found == (expected if device == "cpu" else pytest.approx(expected, rel=1e-3))


def stopped_after(num_steps: int, lab: Laboratory, spec: RunSpec) -> None:
    asked = iter([*[False] * (num_steps - 1), True])
    folder = lab.ledger.begin(spec)
    Run(spec, folder, lab.data, lambda event: None, Checkpoints(folder, math.inf, lambda: next(asked))).execute()
