"""Law 46: options that are not known are refused, in the configurations of adapters."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import save_file
from small_models import language_model, save_small_model
from transformers import AutoModelForCausalLM

from tunewise.adapter.config import CONFIG, WEIGHTS, LoraOptions, read_config
from tunewise.adapter.file import read_adapter
from tunewise.adapter.refusals import OTHER_KINDS
from tunewise.errors import ModelError
from tunewise.lab.adapters.load import AdapterFolder
from tunewise.lab.models.load import load_tuned

# What changes what an adapter computes, or could.
UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "an option that nobody knows": ({"lora_sparsity": 0.5}, "'lora_sparsity' to 0.5, an unknown option"),
    "two of them": ({"zz_one": 1, "zz_two": "x"}, "2 such options: zz_one, zz_two"),
    "a misspelt option": ({"use_rsloras": True}, "Did you mean 'use_rslora'"),
    "a list of an older tool": ({"enable_lora": [True, False, True]}, "'enable_lora'"),
}
OFF: dict[str, Any] = {"zz_none": None, "zz_false": False, "zz_zero": 0, "zz_empty": {}, "zz_list": [], "zz": "none"}
PARAMETERS = "target_parameters"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, a small Llama, and `good`, an adapter of it."""
    root = tmp_path_factory.mktemp("options")
    save_small_model("llama", root / "base")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(root / "base"), config).save_pretrained(root / "good")
    return root


def configured(folder: Path, out: Path, **options: Any) -> Path:
    """The good adapter with other options; None takes one out."""
    out.mkdir()
    (out / WEIGHTS).write_bytes((folder / "good" / WEIGHTS).read_bytes())
    content = {**json.loads((folder / "good" / CONFIG).read_text()), **options}
    (out / CONFIG).write_text(json.dumps(content))
    return out


def taken_by(folder: Path, adapter: Path) -> list[Any]:
    return [
        lambda: read_adapter(adapter),
        lambda: AdapterFolder.open(adapter, str(folder / "base")),
        lambda: load_tuned(language_model(str(folder / "base")), adapter),
    ]


@pytest.mark.parametrize("kind", UNKNOWN)
def test_law_46_an_unknown_option_that_is_set_is_refused_by_name(kind: str, folder: Path, tmp_path: Path) -> None:
    options, words = UNKNOWN[kind]
    adapter = configured(folder, tmp_path / "adapter", **options)
    for take in taken_by(folder, adapter):
        with pytest.raises(ModelError, match=words):
            take()


def test_law_46_unknown_options_that_are_off_change_nothing(folder: Path, tmp_path: Path) -> None:
    adapter = configured(folder, tmp_path / "adapter", **OFF, merge_weights=True, peft_version="99.0")
    for take in taken_by(folder, adapter):
        take()


def test_law_46_an_unknown_kind_of_adapter_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    adapter = configured(folder, tmp_path / "adapter", peft_type="SPARSELORA9")
    for take in taken_by(folder, adapter):
        with pytest.raises(ModelError, match="SPARSELORA9"):
            take()


def test_law_46_nothing_is_claimed_of_an_unknown_kind_and_every_kind_of_peft_is_known(
    folder: Path, tmp_path: Path
) -> None:
    """Law 46: a newer peft may bring a kind; then this turns red, and somebody decides what it means here."""
    adapter = configured(folder, tmp_path / "adapter", peft_type="ADAMSS2")
    with pytest.raises(ModelError, match=r"'ADAMSS2', which is not a known type.* Did you mean 'ADAMSS'\?") as error:
        read_adapter(adapter)
    assert "factors" not in str(error.value)
    assert {kind.value for kind in PeftType} <= {"LORA", *OTHER_KINDS.split()}


def test_law_46_every_option_of_pefts_lora_is_read_or_refused() -> None:
    """Law 46: a newer peft may bring an option; then this turns red, and somebody decides what it means here."""
    assert {field.name for field in fields(LoraConfig)} <= set(LoraOptions.model_fields)


def test_law_46_our_defaults_are_pefts(tmp_path: Path) -> None:
    config = LoraConfig()
    for name in ("r", "lora_alpha", "use_rslora", "bias", "fan_in_fan_out", "use_dora", "lora_bias"):
        assert (LoraOptions(peft_type="LORA").model_dump()[name] or False) == (getattr(config, name) or False), name


def test_law_46_what_peft_itself_writes_is_known(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], rank_pattern={"q_proj": 3}, task_type="CAUSAL_LM")
    config.save_pretrained(tmp_path)
    assert read_config(tmp_path)["rank_pattern"] == {"q_proj": 3}
    assert "LORA" in {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}


def test_law_46_adapters_of_parameters_are_refused_where_they_are_not_understood(folder: Path, tmp_path: Path) -> None:
    """Law 46: experts in one tensor: inspect said rank 16 and scale 0.5 of rank 4 and scale 2, shrink wrote an adapter
    that peft cannot load."""
    adapter = configured(folder, tmp_path / "adapter", target_parameters=["mlp.experts.down_proj"])
    with pytest.raises(ModelError, match=PARAMETERS):
        read_adapter(adapter)
    nested = configured(folder, tmp_path / "nested")
    name = "base_model.model.model.layers.0.mlp.experts.base_layer.lora_"
    save_file({f"{name}A.weight": torch.ones(2, 4), f"{name}B.weight": torch.ones(4, 2)}, nested / WEIGHTS)
    with pytest.raises(ModelError, match="not a factor of B A on a module's own weight"):
        read_adapter(nested)
