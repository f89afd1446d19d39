"""Law 56: a base whose checkpoint is bf16 keeps its linear weights so, and computes what it computes in fp32."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from lab.test_run import Laboratory
from lab_fixtures import make_examples
from tunewise.errors import ModelError
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching
from tunewise.lab.methods import build_method
from tunewise.lab.models import load
from tunewise.lab.models.load import load_base
from tunewise.lab.plan.arm import plan_arm
from tunewise.lab.plan.setting import PlanContext
from tunewise.lab.plan.workload import workload
from tunewise.lab.run import context
from tunewise.lab.train.begin import make_trainable
from tunewise.lab.train.optim import LearningRates
from tunewise.lab.weights.narrow import NarrowLinear, is_stored_in_bf16, keep_narrow
from tunewise.spec import BaseMethod, FullMethod, LoraMethod, Precision, TrainSpec

FAMILIES = ("llama", "qwen2", "mistral", "gemma", "phi3", "gpt-neox", "opt", "gpt2")
Folder = Callable[[str], Path]


@pytest.fixture
def narrow_folder(model_folder: Folder, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Folder:
    """The folder of a small model whose checkpoint is bf16."""

    def folder(name: str) -> Path:
        model = AutoModelForCausalLM.from_pretrained(model_folder(name), dtype=torch.bfloat16)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_law_56_a_narrow_base_computes_the_same_to_the_bit(
    name: str, narrow_folder: Folder, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Law 56: logits in fp32 and under autocast, and every buffer, are those of the base that is loaded in fp32."""
    folder = str(narrow_folder(name))
    narrow = load_base(folder, "sft", (), tokenizer, False, narrow=True).model
    wide = load_base(folder, "sft", (), tokenizer, False).model
    kept = [module for module in narrow.modules() if isinstance(module, NarrowLinear)]
    assert bool(kept) == (name != "gpt2"), "GPT-2's Conv1D is left as it was"
    assert all(module.weight.dtype == torch.bfloat16 for module in kept)
    assert narrow.get_input_embeddings().weight.dtype == torch.float32
    buffers = dict(wide.named_buffers())
    assert {key: b.dtype for key, b in narrow.named_buffers()} == {key: b.dtype for key, b in buffers.items()}
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in narrow.named_buffers())
    ids_1T = torch.tensor([make_examples([12])[0].input_ids])
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert torch.equal(narrow(input_ids=ids_1T).logits, wide(input_ids=ids_1T).logits)


@pytest.mark.parametrize("base", [None, "nf4"])
def test_law_56_a_run_on_it_leaves_the_same_scores_and_weights(
    base: str | None, narrow_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 56: initial adapters, training, scores in fp32 and the saved file do not know how the base was held."""
    pytest.importorskip("bitsandbytes")
    folder, found, kept = narrow_folder("llama"), [], []
    monkeypatch.setattr(load, "keep_narrow", lambda *of: (kept.append(place), keep_narrow(*of)))
    for place, check in (("narrow", is_stored_in_bf16), ("wide", lambda source, name: False)):
        monkeypatch.setattr(load, "is_stored_in_bf16", check)
        lab = Laboratory(tmp_path / place, "sft", folder, make_examples)
        record = lab.run(LoraMethod(rank=4, base=base), precision="bf16")  # type: ignore[arg-type]
        scored = lab.run(BaseMethod(base=base), "base", precision="bf16")  # type: ignore[arg-type]
        weights = (lab.weights(record) / "adapter_model.safetensors").read_bytes()
        found.append((record.run_id, record.evaluations, lab.scores(record), lab.scores(scored), weights))
    assert found[0] == found[1]
    assert kept == ["narrow"] * 3, "loaded for training, for scoring, and for the base"


def test_law_56_methods_that_read_or_train_weights_get_them_in_fp32(
    narrow_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def loaded(*given: object) -> object:
        asked.append(bool(given[-1]))
        return load_base(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(context, "load_base", loaded)
    lab = Laboratory(tmp_path, "sft", narrow_folder("llama"), make_examples)
    lab.run(FullMethod(), precision="bf16")
    for variant in ("dora", "pissa"):
        lab.run(LoraMethod(rank=4, variant=variant), precision="bf16")  # type: ignore[arg-type]
    lab.run(LoraMethod(rank=4))  # in fp32, where a narrow weight would be widened for every product
    assert asked
    assert not any(asked)


def test_law_56_only_a_checkpoint_of_bf16_alone_is_kept(model_folder: Folder, narrow_folder: Folder) -> None:
    assert not is_stored_in_bf16(str(model_folder("llama")), "m")
    assert is_stored_in_bf16(str(narrow_folder("llama")), "m")
    assert not is_stored_in_bf16("a/hub-id", "m")
    with pytest.raises(ModelError, match="no safetensors"):
        is_stored_in_bf16(str(narrow_folder("opt").parent), "m")


def bytes_in_file(model: torch.nn.Module) -> int:
    """Of the frozen weights, those that lie in a mapped safetensors file."""
    mapped = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(".safetensors"):
            begin, end = (int(address, 16) for address in line.split()[0].split("-"))
            mapped.append(range(begin, end))
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    return sum(p.nbytes for p in frozen if any(p.data_ptr() in pages for pages in mapped))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the pages of a process")
@pytest.mark.parametrize(
    ("stored", "precision", "method", "is_mapped"),
    [
        ("bf16", "bf16", LoraMethod(rank=2), True),
        ("fp32", "fp32", LoraMethod(rank=2), True),
        ("fp32", "fp32", LoraMethod(rank=2, variant="pissa"), True),
        ("fp32", "bf16", LoraMethod(rank=2), False),
        ("bf16", "fp32", LoraMethod(rank=2), False),
        ("bf16", "bf16", LoraMethod(rank=2, variant="dora"), False),
        ("fp32", "fp32", FullMethod(), False),
    ],
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_law_56_the_plan_says_which_weights_stay_in_the_file(  # noqa: PLR0913, PLR0917 - the cases
    family: str,
    stored: Precision,
    precision: Precision,
    method: LoraMethod | FullMethod,
    is_mapped: bool,
    model_folder: Folder,
    narrow_folder: Folder,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    folder = narrow_folder(family) if stored == "bf16" else model_folder(family)
    setting = PlanContext(
        AutoConfig.from_pretrained(folder), "sft", 0, (), TrainSpec(), 10, "cpu", precision, None, stored=stored
    )
    base = load_base(str(folder), "sft", (), tokenizer, False, setting.is_narrow_for(method))
    own = build_method(method, "sft", 10)
    model = own.prepare(base)
    make_trainable((model, own), (), TrainSpec(), LearningRates(1e-4, None), Compute("cpu", precision))
    work = workload(make_examples([9, 7]), setting.train, 0, Batching(2048, 0, 0))
    planned = plan_arm(setting, work, method, None, 2**40).mapped
    assert planned == bytes_in_file(model)
    assert bool(planned) == (is_mapped and not (family == "gpt2" and stored == "bf16"))


def test_law_56_scoring_as_stored_is_another_run_and_says_so(
    model_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores in the precision of training differ from those in fp32 by its rounding, training does not."""
    lab = Laboratory(tmp_path, "sft", model_folder("llama"), make_examples)
    exact = lab.run(LoraMethod(rank=4), precision="bf16")
    stored = lab.run(LoraMethod(rank=4), precision="bf16", scoring="stored")
    assert exact.run_id != stored.run_id
    assert exact.evaluations == stored.evaluations
    pairs = zip(lab.scores(exact, "test"), lab.scores(stored, "test"), strict=True)
    apart = [abs(one["nll"] - other["nll"]) / one["nll"] for one, other in pairs]
    assert 0 < max(apart) < 0.01
    in_fp32 = [lab.run(LoraMethod(rank=4), scoring=scoring) for scoring in ("exact", "stored")]
    assert lab.scores(in_fp32[0]) == lab.scores(in_fp32[1])
