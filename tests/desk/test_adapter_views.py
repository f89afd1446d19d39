"""What is said of adapters: figures of cases whose answer is known, and mistakes that are named."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tunewise.adapter.lowrank import Floats
from tunewise.desk.adapter.heatmap import heat_map
from tunewise.desk.adapter.inspect import compare_adapters, inspect_adapter, place, shrink_adapter
from tunewise.errors import ModelError, SpecError

CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": 3, "lora_alpha": 6}
Update = tuple[Floats, Floats]


def adapter(folder: Path, updates: dict[str, Update]) -> Path:
    """An adapter of these factors B, A at scale 2."""
    folder.mkdir(parents=True)
    tensors = {}
    for name, (B, A) in updates.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.astype(np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    return folder


def diagonal(*values: float, outputs: int = 5, inputs: int = 4, first: int = 0) -> Update:
    """Factors of a matrix with these singular values, in directions `first`, `first` + 1, ..."""
    B, A = np.zeros((outputs, 3)), np.zeros((3, inputs))
    for i, value in enumerate(values):
        B[first + i, i], A[i, i] = value / 2, 1.0  # the scale is 2
    return B, A


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return adapter(
        tmp_path / "known",
        {"h.10.attn": diagonal(3.0, 1.0), "h.2.attn": diagonal(2.0, 2.0, 2.0), "h.2.mlp": diagonal()},
    )


def test_a_known_adapter_is_described(known: Path) -> None:
    view = inspect_adapter(known)
    assert [module.module for module in view.modules] == ["h.2.attn", "h.2.mlp", "h.10.attn"]
    even, dead, uneven = view.modules
    assert (uneven.layer, uneven.kind, uneven.rank, uneven.scale) == (10, "attn", 3, 2.0)
    assert uneven.norm == pytest.approx(10**0.5)
    assert uneven.largest == pytest.approx(3)
    assert uneven.singular_values == pytest.approx((3, 1, 0), abs=1e-7)
    assert uneven.energy_ranks == {"90": 1, "95": 2, "99": 2}
    assert uneven.stable_rank == pytest.approx(10 / 9)
    assert even.effective_rank == pytest.approx(3)
    assert (dead.norm, dead.effective_rank, dead.stable_rank) == (0, None, None)
    assert view.dead == ("h.2.mlp",)
    assert view.parameters == 3 * 3 * (5 + 4)


def test_two_adapters_are_compared_where_both_adapt(tmp_path: Path, known: Path) -> None:
    other = adapter(
        tmp_path / "other",
        {"h.10.attn": diagonal(3.0, 1.0, first=1), "h.2.attn": diagonal(4.0, 4.0, 4.0), "h.3.attn": diagonal(1.0)},
    )
    found = compare_adapters(known, other)
    assert (found.only_first, found.only_second) == (("h.2.mlp",), ("h.3.attn",))
    same, moved = found.modules
    assert same.cosine == pytest.approx(1)
    assert same.distance == pytest.approx(1)
    assert (same.overlap_outputs, same.overlap_inputs) == (pytest.approx(1), pytest.approx(1))
    assert moved.cosine == pytest.approx(0), "the same inputs, other outputs"
    assert found.cosine == pytest.approx(24 / (12 + 10) ** 0.5 / (48 + 10) ** 0.5)
    with pytest.raises(ModelError, match="no module in common"):
        compare_adapters(known, adapter(tmp_path / "elsewhere", {"x.1.y": diagonal(1.0)}))
    wider = adapter(tmp_path / "wider", {"h.2.attn": diagonal(1.0, outputs=7)})
    with pytest.raises(ModelError, match=r"\(5, 4\) in one adapter and \(7, 4\) in the other"):
        compare_adapters(known, wider)


def test_energy_keeps_of_every_module_what_it_needs(tmp_path: Path, known: Path) -> None:
    report = shrink_adapter(known, tmp_path / "small", energy=0.9)
    assert {module.module: module.rank for module in report.modules} == {"h.2.attn": 3, "h.2.mlp": 1, "h.10.attn": 1}
    assert report.lost == pytest.approx((1 / 22) ** 0.5)
    assert [module.lost for module in report.modules] == [pytest.approx(0, abs=1e-6), None, pytest.approx(0.1**0.5)]


def test_the_parameters_of_a_rank_are_spread_by_energy(tmp_path: Path, known: Path) -> None:
    report = shrink_adapter(known, tmp_path / "small", rank=2, spread=True)
    assert {module.module: module.rank for module in report.modules} == {"h.2.attn": 3, "h.2.mlp": 1, "h.10.attn": 2}
    assert report.lost == pytest.approx(0, abs=1e-6)


OPTIONS = {
    "--rank 8 or --energy 0.95": {},
    "either --rank or --energy": {"rank": 2, "energy": 0.9},
    "above 0 and at most 1, but got 95": {"energy": 95.0},
    "at least 1, but got 0": {"rank": 0},
    "already chooses a rank per module": {"energy": 0.9, "spread": True},
}


@pytest.mark.parametrize("message", OPTIONS)
def test_options_that_do_not_fit_together_are_named(message: str, tmp_path: Path, known: Path) -> None:
    with pytest.raises(SpecError, match=message):
        shrink_adapter(known, tmp_path / "small", **OPTIONS[message])  # type: ignore[arg-type]
    assert not (tmp_path / "small").exists()


def test_the_heat_map_has_a_cell_for_every_module(known: Path) -> None:
    svg = heat_map(inspect_adapter(known))
    for label in ("attn", "mlp", "2", "10", "norm of the update"):
        assert f">{label}</text>" in svg
    cells = re.search(r'class="mark-rect role-mark marks".*?</g>', svg)
    assert cells
    assert cells[0].count("<path") == 3


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("model.layers.12.self_attn.q_proj", (12, "self_attn.q_proj")),
        ("transformer.h.0.mlp.c_fc", (0, "mlp.c_fc")),
        ("lm_head", (None, "lm_head")),
        ("encoder.layer.3.experts.7.w1", (3, "experts.7.w1")),
    ],
)
def test_a_modules_place_is_read_off_its_name(module: str, expected: tuple[int | None, str]) -> None:
    assert place(module) == expected
