"""Law 43: a load is complete only if names were compared. Here adapters; whole models in test_named_models.py."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small_models import language_model, save_small_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tunewise.adapter.config import CONFIG, WEIGHTS
from tunewise.adapter.file import read_adapter
from tunewise.cli.app import app
from tunewise.errors import ModelError
from tunewise.lab.models.load import load_tuned
from tunewise.lab.prepare import prepare
from tunewise.spec import StudySpec

FIRST = "base_model.model."
# What a training or a conversion does to the names, and the words by which it is refused.
RENAMED: dict[str, tuple[Callable[[str], str | None], str]] = {
    "a compiled model, in front": (lambda name: f"_orig_mod.{name}", "_orig_mod"),
    "a compiled model, inside": (lambda name: name.replace(FIRST, f"{FIRST}_orig_mod.", 1), "_orig_mod"),
    "a sharded model": (
        lambda name: name.replace("self_attn", "_fsdp_wrapped_module.self_attn"),
        "_fsdp_wrapped_module",
    ),
    "without peft's prefix": (lambda name: name.removeprefix(FIRST), "does not begin with"),
    "a part of another model": (
        lambda name: name.replace("model.model.", "model.model.language_model.", 1),
        "have no place in the base",
    ),
    "layers that the base lacks": (lambda name: name.replace(".layers.1.", ".layers.7."), "have no place in the base"),
    "half of the layers": (lambda name: None if ".layers.1." in name else name, "are not in it"),
    "one factor alone": (lambda name: None if name.endswith("1.self_attn.q_proj.lora_B.weight") else name, "not in it"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, a small Llama, and `good`, an adapter on two projections of it whose B is not 0."""
    root = tmp_path_factory.mktemp("complete")
    save_small_model("llama", root / "base")
    torch.manual_seed(1)
    config = LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False, lora_alpha=4
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(root / "base"), config)
    model.save_pretrained(root / "good")
    return root


def renamed(folder: Path, rename: Callable[[str], str | None], out: Path, **config: Any) -> Path:
    """The good adapter with other names of tensors, or without some of them."""
    shutil.copytree(folder / "good", out)
    tensors = {new: tensor for name, tensor in load_file(out / WEIGHTS).items() if (new := rename(name)) is not None}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    (out / CONFIG).write_text(json.dumps({**json.loads((out / CONFIG).read_text()), **config}))
    return out


@pytest.mark.parametrize("kind", RENAMED)
def test_law_43_an_adapter_that_is_not_taken_whole_is_refused_by_name(kind: str, folder: Path, tmp_path: Path) -> None:
    """Law 43: in verify, in merge, and where an existing arm is scored."""
    rename, words = RENAMED[kind]
    adapter = renamed(folder, rename, tmp_path / "adapter")
    for command in (["verify"], ["merge", "--out", str(tmp_path / "merged")]):
        with pytest.raises(ModelError, match=words):
            CliRunner().invoke(app, ["adapter", command[0], str(adapter), *command[1:]], catch_exceptions=False)
    with pytest.raises(ModelError, match=words):
        load_tuned(language_model(str(folder / "base")), adapter)
    assert not (tmp_path / "merged").exists()


def test_law_43_a_good_adapter_is_taken_whole(folder: Path) -> None:
    base = language_model(str(folder / "base"))
    ids_BT = torch.arange(4, 14)[None]
    before = base.model(ids_BT).logits
    tuned = load_tuned(base, folder / "good")
    assert not torch.allclose(tuned(ids_BT).logits, before, atol=1e-3)


@pytest.mark.parametrize("kind", list(RENAMED)[:4])
def test_law_43_without_the_base_names_that_fit_no_base_are_refused(kind: str, folder: Path, tmp_path: Path) -> None:
    """Law 43: inspect, shrink and diff read no base; what no base would take they refuse as well."""
    rename, words = RENAMED[kind]
    with pytest.raises(ModelError, match=words):
        read_adapter(renamed(folder, rename, tmp_path / "adapter"))


def test_law_43_factors_of_modules_that_the_configuration_does_not_adapt_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    adapter = renamed(folder, lambda name: name, tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(ModelError, match=r"v_proj.*target_modules"):
        read_adapter(adapter)
    with pytest.raises(ModelError, match=r"have no place in the base, such as .*v_proj"):
        load_tuned(language_model(str(folder / "base")), adapter)


def test_law_43_an_existing_arm_is_refused_before_anything_is_trained(folder: Path, tmp_path: Path) -> None:
    adapter = renamed(folder, RENAMED["half of the layers"][0], tmp_path / "adapter")
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"w{5 + i}", "completion": f"w{6 + i}"}) + "\n" for i in range(40)))
    content = {
        "name": "s",
        "model": str(folder / "base"),
        "data": {"train": str(data)},
        "arms": {"full": {"method": "full"}, "theirs": {"method": "existing", "path": str(adapter)}},
        "forgetting": {"tokens": 0},
    }
    with pytest.raises(ModelError, match="tensors that the base needs are not in it"):
        prepare(StudySpec.model_validate(content), tmp_path / "data")


@pytest.mark.parametrize("rows", ["modules_to_save", "targets"])
def test_law_43_a_resized_vocabulary_is_named_with_what_to_do(rows: str, folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    size = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(size + 2)
    names = ["embed_tokens", "lm_head"]
    options = {"modules_to_save": names} if rows == "modules_to_save" else {"target_modules": ["q_proj", *names]}
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **options})
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match=rf"\({size + 2}, 32\) in the adapter.*resize_token_embeddings\({size + 2}\)"):
        load_tuned(language_model(str(folder / "base")), tmp_path / "adapter")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_law_43_numbers_that_are_not_finite_are_refused_by_name(value: float, folder: Path, tmp_path: Path) -> None:
    adapter = renamed(folder, lambda name: name, tmp_path / "adapter")
    tensors = load_file(adapter / WEIGHTS)
    name = next(iter(tensors))
    tensors[name][0, 0] = value
    save_file(tensors, adapter / WEIGHTS, metadata={"format": "pt"})
    for take in (read_adapter, lambda path: load_tuned(language_model(str(folder / "base")), path)):
        with pytest.raises(ModelError, match=f"NaN or infinite numbers, such as '{name}'"):
            take(adapter)
