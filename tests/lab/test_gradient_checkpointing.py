"""Gradient checkpointing keeps less for the gradient and changes nothing of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaPreTrainedModel

from lab_fixtures import make_examples, small_config
from tunewise.errors import ModelError, SpecError
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching
from tunewise.lab.methods import build_method
from tunewise.lab.models.fusing import fuse
from tunewise.lab.models.load import Base
from tunewise.lab.models.packing import fit_attention
from tunewise.lab.prepare import prepare
from tunewise.lab.train.loss import add_gradient
from tunewise.lab.weights.precision import store_frozen_weights
from tunewise.spec import FullMethod, LoraMethod, Precision, StudySpec

METHODS = {"full": FullMethod(), "lora": LoraMethod(rank=4, dropout=0.3)}
EXAMPLES = make_examples((9, 4, 16, 5, 23, 12, 7, 3))


def one_step(family: str, method: str, precision: Precision, checkpointing: bool) -> tuple[dict[str, Any], int]:
    """The gradients of a step over packed examples, dropout included, and the bytes that were kept for them."""
    torch.manual_seed(0)
    base = Base(AutoModelForCausalLM.from_config(small_config(family)), (), ())
    model = build_method(METHODS[method], "sft", 1).prepare(base)
    fuse(model)
    longest = fit_attention(model, None, "sft")
    assert longest, "it is packed"
    if checkpointing:
        base.model.gradient_checkpointing_enable({"use_reentrant": False})
    store_frozen_weights(model, precision)
    model.train()
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        for batch in Batching(200, 0, longest).batches(EXAMPLES, range(8)):
            add_gradient(model, batch, 50, Compute("cpu", precision))
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients, sum(size for pointer, size in kept.items() if pointer not in parameters)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma"])
def test_less_is_kept_and_gradients_are_the_same_bit_by_bit(family: str, method: str, precision: Precision) -> None:
    plain, kept = one_step(family, method, precision, checkpointing=False)
    again, kept_less = one_step(family, method, precision, checkpointing=True)
    assert kept_less < 0.5 * kept
    assert plain.keys() == again.keys()
    assert len(plain) > 4
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name


def refused(folder: Path, model: str, arm: dict[str, Any]) -> StudySpec:
    rows = "".join(f'{{"prompt": "w{n} w{n + 1}", "completion": "w{n % 7}"}}\n' for n in range(10, 50))
    (folder / "rows.jsonl").write_text(rows, encoding="utf-8")
    return StudySpec.model_validate(
        {
            "name": "refused",
            "model": model,
            "data": {"train": str(folder / "rows.jsonl")},
            "arms": {"arm": arm},
            "train": {"gradient_checkpointing": True},
        }
    )


def test_a_model_that_cannot_is_refused_before_training(
    tmp_path: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaPreTrainedModel, "supports_gradient_checkpointing", False)
    study = refused(tmp_path, str(model_folder("llama")), {"method": "full"})
    with pytest.raises(ModelError, match=r"llama.* cannot recompute its activations.*remove train\.gradient_"):
        prepare(study, tmp_path / "data")


def test_prefix_tuning_is_refused_before_training(tmp_path: Path, model_folder: Any) -> None:
    options = {"num_virtual_tokens": 4}
    study = refused(
        tmp_path, str(model_folder("llama")), {"method": "peft", "type": "PREFIX_TUNING", "options": options}
    )
    with pytest.raises(SpecError, match="arm 'arm': PREFIX_TUNING .* Use PROMPT_TUNING"):
        prepare(study, tmp_path / "data")
    prepare(study.replace(train=study.train.replace(gradient_checkpointing=False)), tmp_path / "data")
