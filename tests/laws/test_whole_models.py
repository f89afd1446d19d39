"""Law 43 for whole models: a load is complete only if the names and shapes of all tensors were compared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from tunewise.errors import ModelError
from tunewise.lab.models.load import Base, load_base, load_tuned

Tensors = dict[str, torch.Tensor]
LABELS = ("negative", "neutral", "positive")


def changed(folder: Path, to: Path, change: Callable[[Tensors], Tensors]) -> Path:
    shutil.copytree(folder, to)
    save_file(change(load_file(to / "model.safetensors")), to / "model.safetensors", metadata={"format": "pt"})
    return to


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if part not in key}


def with_one(key: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, key: torch.ones(8)}


def wider(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        key: torch.cat([tensor, tensor]) if part in key else tensor for key, tensor in tensors.items()
    }


BODIES = {
    "llama": "model.layers",
    "gpt2": "transformer.h",
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
}
REFUSED = {
    "a layer is missing": (lambda body: without(f"{body}.1."), "lack"),
    "one layer more": (lambda body: with_one(f"{body}.2.norm.weight"), "no place"),
    "a module more": (lambda body: with_one(f"{body}.0.attention_extra.q_norm.weight"), "no place"),
    "a layer of another size": (lambda body: wider(f"{body}.0."), "a shape that differs"),
    "a prefix": (lambda body: lambda tensors: {f"_orig_mod.{k}": v for k, v in tensors.items()}, "lack"),
}


@pytest.mark.parametrize("family", BODIES)
@pytest.mark.parametrize("what", REFUSED)
def test_law_43_a_body_with_another_tensor_than_the_model_is_refused_for_every_task(
    family: str, what: str, model_folder: Callable[[str], Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    change, words = REFUSED[what]
    folder = changed(model_folder(family), tmp_path / "m", change(BODIES[family]))
    tasks = ("classify",) if family in ("bert", "roberta") else ("sft", "classify")
    for task in tasks:
        with pytest.raises(ModelError, match=words):
            load_base(str(folder), task, LABELS if task == "classify" else (), tokenizer, False)  # type: ignore[arg-type]


def test_law_43_a_layer_with_a_bias_that_the_model_lacks_is_refused_and_a_part_of_its_own_is_told(
    model_folder: Callable[[str], Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    bias = changed(model_folder("llama"), tmp_path / "a", with_one("model.layers.0.self_attn.q_proj.bias"))
    with pytest.raises(ModelError, match=r"no place for, such as model.layers.0.self_attn.q_proj.bias"):
        load_base(str(bias), "sft", (), tokenizer, False)
    part = changed(model_folder("llama"), tmp_path / "b", with_one("v_head.weight"))
    assert "v_head.weight" in load_base(str(part), "sft", (), tokenizer, False).notes[0]
    masks = changed(model_folder("gpt2"), tmp_path / "c", with_one("transformer.h.0.attn.bias"))
    assert load_base(str(masks), "sft", (), tokenizer, False).head_modules == (), "old files hold causal masks"


def test_law_43_only_what_pretraining_does_not_have_may_be_new_in_a_body(
    model_folder: Callable[[str], Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    new = load_base(str(model_folder("bert")), "classify", LABELS, tokenizer, False).new_parameters
    assert {key for key in new if key.startswith("bert.")} == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


@pytest.mark.parametrize("what", REFUSED)
def test_law_43_a_tuned_model_is_complete_or_refused(
    what: str, classifier: Callable[..., Base], tmp_path: Path
) -> None:
    base = classifier("bert")
    base.model.save_pretrained(tmp_path / "whole")
    assert load_tuned(base, tmp_path / "whole")
    change, words = REFUSED[what]
    with pytest.raises(ModelError, match=words):
        load_tuned(base, changed(tmp_path / "whole", tmp_path / "m", change(BODIES["bert"])))
    with pytest.raises(ModelError, match="lack"):
        load_tuned(base, changed(tmp_path / "whole", tmp_path / "headless", without("classifier")))


@pytest.mark.parametrize(
    ("quantized", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes in 4 bits"),
        ({"quant_method": "gptq", "bits": 4}, "GPTQ in 4 bits"),
        ({"quant_method": "awq", "bits": 4}, "AWQ in 4 bits"),
        ({"quant_method": "fp8"}, "FP8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "new-method"}, "new-method"),
    ],
)
def test_law_43_quantised_weights_are_refused_by_name_with_the_way_out(
    quantized: dict[str, object],
    words: str,
    model_folder: Callable[[str], Path],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(model_folder("llama"), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantized}), encoding="utf-8")
    with pytest.raises(ModelError, match=rf"quantized by {words} .*dequantize"):
        load_base(str(folder), "sft", (), tokenizer, False)
