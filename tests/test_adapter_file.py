"""Adapters read and written without torch: what plain peft makes of the same files, and what is refused by name."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lab_fixtures import small_config
from tunewise.adapter.config import WEIGHTS
from tunewise.adapter.file import read_adapter, with_ranks, write_adapter
from tunewise.desk.adapter.inspect import shrink_adapter
from tunewise.errors import ModelError

THEIRS = Path(__file__).parents[2] / "shared" / "data" / "weights" / "adapters" / "gpt2_seqcls_peft"
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"target_modules": ["c_attn", "c_proj"]},
    "llama": {"target_modules": ["q_proj", "down_proj"]},
    "rslora": {"target_modules": ["q_proj"], "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 5},
        "alpha_pattern": {"down_proj": 16},
    },
    "rslora patterns": {"target_modules": ["q_proj", "v_proj"], "use_rslora": True, "rank_pattern": {"v_proj": 2}},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "a head beside it": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


def family(kind: str) -> str:
    return "gpt2" if kind == "gpt2" else "llama"


def base(kind: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(small_config(family(kind))).eval()


@torch.no_grad()
def saved(kind: str, folder: Path, **options: Any) -> Path:
    config = {"r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM", "init_lora_weights": False, **KINDS[kind], **options}
    model = get_peft_model(base(kind), LoraConfig(**config))
    if "modules_to_save" in config:
        model.base_model.model.lm_head.modules_to_save["default"].weight += 0.1
    model.save_pretrained(folder)
    return folder


def merged(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    """The weights that plain peft makes of base and adapter."""
    return dict(PeftModel.from_pretrained(base(kind), folder).merge_and_unload().named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_is_what_plain_peft_adds_to_the_weight(kind: str, tmp_path: Path) -> None:
    adapter = read_adapter(saved(kind, tmp_path))
    before, after = dict(base(kind).named_parameters()), merged(kind, tmp_path)
    changed = {n.removesuffix(".weight") for n, p in after.items() if not torch.equal(p, before[n])}
    assert set(adapter.modules) | ({"lm_head"} if "head" in kind else set()) == changed
    for name, factors in adapter.modules.items():
        moved = (after[f"{name}.weight"] - before[f"{name}.weight"]).detach().numpy()
        update = factors.thin.dense()
        is_transposed = family(kind) == "gpt2" or factors.is_embedding
        np.testing.assert_allclose(update.T if is_transposed else update, moved, atol=1e-6)
        # and its singular values are those of the dense matrix in float64
        dense = factors.scale * factors.B_MR.astype(np.float64) @ factors.A_RN.astype(np.float64)
        expected = np.linalg.svd(dense, compute_uv=False)[: len(factors.thin.s_K)]
        np.testing.assert_allclose(factors.thin.s_K, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_written_again_it_is_the_same_adapter_to_plain_peft(kind: str, tmp_path: Path) -> None:
    adapter = read_adapter(saved(kind, tmp_path / "theirs"))
    write_adapter(with_ranks(adapter, {n: f.thin for n, f in adapter.modules.items()}), tmp_path / "ours")
    theirs, ours = merged(kind, tmp_path / "theirs"), merged(kind, tmp_path / "ours")
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_shrunk_it_is_the_nearest_of_its_rank_to_plain_peft(kind: str, tmp_path: Path) -> None:
    adapter = read_adapter(saved(kind, tmp_path / "theirs"))
    report = shrink_adapter(tmp_path / "theirs", tmp_path / "ours", rank=1)
    theirs, ours = merged(kind, tmp_path / "theirs"), merged(kind, tmp_path / "ours")
    before = dict(base(kind).named_parameters())
    lost = whole = 0.0
    for name, factors in adapter.modules.items():
        update = (theirs[f"{name}.weight"] - before[f"{name}.weight"]).detach().double()
        U, s, Vh = torch.linalg.svd(update, full_matrices=False)
        best = s[0] * torch.outer(U[:, 0], Vh[0])
        torch.testing.assert_close(
            (ours[f"{name}.weight"] - before[f"{name}.weight"]).double(), best, rtol=1e-6, atol=2e-6
        )
        lost, whole = lost + float((s[1:] ** 2).sum()), whole + float((s**2).sum())
        assert next(m for m in report.modules if m.module == name).rank_before == factors.rank
    assert report.lost == pytest.approx(math.sqrt(lost / whole), rel=1e-5)
    assert report.parameters == sum(f.cost for f in adapter.modules.values())
    for name in adapter.others:  # heads are handed on as they are
        assert torch.equal(load_file(tmp_path / "ours" / WEIGHTS)[name], load_file(tmp_path / "theirs" / WEIGHTS)[name])


def test_a_shrink_to_the_known_rank_of_a_product_is_exact_to_1e6(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "theirs", r=16)
    tensors = load_file(folder / WEIGHTS)
    for name in tensors:  # rows 3 to 15 of A repeat rows 0 to 2, so the product has rank 3
        if ".lora_A." in name:
            tensors[name] = tensors[name][:3].repeat(6, 1)[:16]
    save_file(tensors, folder / WEIGHTS)
    assert shrink_adapter(folder, tmp_path / "ours", rank=3).lost == pytest.approx(0, abs=1e-6)
    theirs, ours = merged("llama", folder), merged("llama", tmp_path / "ours")
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_stored_precision_is_read(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = saved("llama", tmp_path)
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    for name, factors in read_adapter(folder).modules.items():
        for side, matrix in (("A", factors.A_RN), ("B", factors.B_MR)):
            expected = tensors[f"base_model.model.{name}.lora_{side}.weight"].double().numpy()
            assert (matrix == expected).all()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "LoRA with a bias"),
        ({"init_lora_weights": "pissa"}, "the format of pissa"),
        ({"init_lora_weights": "olora"}, "the format of olora"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_name(options: dict[str, Any], name: str, tmp_path: Path) -> None:
    folder = saved("llama", tmp_path, **options)
    with pytest.raises(ModelError, match=f"is (in )?{name}"):
        read_adapter(folder)


def test_other_methods_are_refused_by_name(tmp_path: Path) -> None:
    config = VeraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(base("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is VERA: its update is not a product of two factors"):
        read_adapter(tmp_path)


def test_a_damaged_or_missing_adapter_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no adapter_config.json"):
        read_adapter(tmp_path)
    folder = saved("llama", tmp_path / "adapter")
    with pytest.raises(ModelError, match="is not empty"):
        write_adapter(read_adapter(folder), folder)
    tensors = load_file(folder / WEIGHTS)
    save_file(
        {n: t for n, t in tensors.items() if not n.endswith("0.self_attn.q_proj.lora_B.weight")}, folder / WEIGHTS
    )
    with pytest.raises(ModelError, match="layers.0.self_attn.q_proj has the factors .* a pair of matrices"):
        read_adapter(folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:500])
    with pytest.raises(ModelError, match="is damaged"):
        read_adapter(folder)


@pytest.mark.skipif(not THEIRS.is_dir(), reason="the adapter lies beside the repository, and is not there")
def test_an_adapter_made_by_somebody_else_is_read_and_shrunk(tmp_path: Path) -> None:
    adapter = read_adapter(THEIRS)
    assert len(adapter.modules) == 12
    assert {factors.rank for factors in adapter.modules.values()} == {8}
    assert [int(name.split(".")[2]) for name in adapter.modules] == list(range(12)), "layer 2 before layer 10"
    report = shrink_adapter(THEIRS, tmp_path / "spread", rank=4, spread=True)
    uniform = shrink_adapter(THEIRS, tmp_path / "uniform", rank=4)
    assert report.parameters <= uniform.parameters
    assert report.lost is not None
    assert uniform.lost is not None
    assert report.lost < uniform.lost, "at the same number of parameters"
    config = json.loads((tmp_path / "spread" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {module.module: module.rank for module in report.modules}
    again = read_adapter(tmp_path / "spread")
    assert {name: factors.scale for name, factors in again.modules.items()} == dict.fromkeys(adapter.modules, 1.0)
    assert list(again.others) == ["base_model.model.score.weight"]
