"""Adapters that are odd, damaged or hostile: one message each, or read as peft reads them; never a traceback."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tunewise.adapter.config import CONFIG, WEIGHTS
from tunewise.adapter.file import read_adapter
from tunewise.desk.adapter.heatmap import heat_map
from tunewise.desk.adapter.inspect import compare_adapters, inspect_adapter, shrink_adapter
from tunewise.errors import ModelError, StudyError
from tunewise.storage.disk import new_folder
from tunewise.storage.scratch import scratch_folder

Tensors = dict[str, np.ndarray[Any, Any]]
GOOD = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
MODULE = "base_model.model.model.layers.{}.self_attn.q_proj"


def tensors(first: str = "0") -> Tensors:
    draw = np.random.default_rng(0)
    found = {}
    for layer in (first, "1"):
        found[f"{MODULE.format(layer)}.lora_A.weight"] = draw.normal(size=(2, 8)).astype(np.float32)
        found[f"{MODULE.format(layer)}.lora_B.weight"] = draw.normal(size=(6, 2)).astype(np.float32)
    return found


def adapter(folder: Path, config: dict[str, Any] | str | None = None, given: Tensors | None = None) -> Path:
    folder.mkdir()
    text = config if isinstance(config, str) else json.dumps({**GOOD, **(config or {})})
    (folder / CONFIG).write_text(text, encoding="utf-8")
    save_file(given or tensors(), folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def number(value: str) -> str:
    return json.dumps({**GOOD, "lora_alpha": 7}).replace('"lora_alpha": 7', f'"lora_alpha": {value}')


CONFIGS: dict[str, tuple[dict[str, Any] | str, str]] = {
    "alpha null": ({"lora_alpha": None}, "'lora_alpha': must be a number, but got None"),
    "alpha a text": ({"lora_alpha": "16"}, "'lora_alpha': must be a number, but got '16'"),
    "alpha true": ({"lora_alpha": True}, "'lora_alpha': must be a number"),
    "alpha NaN": (number("NaN"), "damaged.*NaN is not a number"),
    "alpha infinite": (number("Infinity"), "damaged.*Infinity is not a number"),
    "alpha 1e400": (number("1e400"), "'lora_alpha': must be a finite number"),
    "alpha of 401 digits": (number("1" + "0" * 400), "'lora_alpha': must be a number"),
    "alpha of 5,001 digits": (number("1" + "0" * 5000), "damaged.*4300 digits"),
    "alpha 0": ({"lora_alpha": 0}, "'lora_alpha': must be greater than 0"),
    "alpha below 0": ({"lora_alpha": -8}, "'lora_alpha': must be greater than 0"),
    "alpha_pattern a list": ({"alpha_pattern": ["q"]}, "'alpha_pattern': must be keys with values"),
    "alpha_pattern no pattern": ({"alpha_pattern": {"(": 1}}, "alpha_pattern: .* not a valid regular expression"),
    "alpha_pattern a text": ({"alpha_pattern": {"q_proj": "many"}}, "'alpha_pattern.q_proj': must be a number"),
    "alpha_pattern that hangs": ({"alpha_pattern": {"(a+)+$x": 1}}, "alpha_pattern: .*could take hours"),
    "rank_pattern that hangs": ({"rank_pattern": {"(.*)*x": 1}}, "rank_pattern: .*could take hours"),
    "rank_pattern a fraction": ({"rank_pattern": {"q_proj": 2.5}}, "'rank_pattern.q_proj': must be a whole number"),
    "20,000 patterns": ({"rank_pattern": {f"k{i}": 2 for i in range(20_000)}}, "20,000 keys; at most 5,000"),
    "targets that hang": ({"target_modules": "(.*a)*x"}, "target_modules: .*could take hours"),
    "base a list": ({"base_model_name_or_path": ["x"]}, "'base_model_name_or_path': must be text"),
    "base a number": ({"base_model_name_or_path": 3}, "'base_model_name_or_path': must be text"),
    "task a mapping": ({"task_type": {"a": 1}}, "'task_type': must be text"),
    "kind a list": ({"peft_type": ["LORA"]}, "'peft_type': must be text"),
    "rank 0": ({"r": 0}, "'r': must be greater than or equal to 1"),
    "rank a text": ({"r": "2"}, "'r': must be a whole number"),
    "rank 10^12": ({"r": 10**12}, "'r': must be less than or equal to"),
    "another rank": ({"r": 8}, "has factors of rank 2, but adapter_config.json gives 8"),
    "nested 100,000 deep": ('{"peft_type": "LORA", "x": ' + "[" * 100_000, "damaged"),
    "not JSON": ("{", "damaged: adapter_config.json is not JSON"),
}


def filled(value: float, dtype: type = np.float32) -> Tensors:
    return {name: np.full(tensor.shape, value, dtype=dtype) for name, tensor in tensors().items()}


WEIGHTS_OF: dict[str, tuple[Callable[[], Tensors], str]] = {
    "NaN": (lambda: filled(np.nan), "4 of 4 tensors contain NaN or infinite numbers"),
    "infinite": (lambda: filled(np.inf), "4 of 4 tensors contain NaN or infinite numbers"),
    "B and A of other ranks": (
        lambda: {n: t[:1] if "lora_A" in n else t for n, t in tensors().items()},
        "B must have as many columns as A has rows",
    ),
    "without rows": (lambda: {n: t[:0] for n, t in tensors().items()}, "a pair of matrices was expected"),
    "integers": (lambda: filled(1, np.int8), "is stored as I8; allowed are"),
    "a name of 5,000 digits": (lambda: tensors("1" * 5000), "characters; at most 1,000"),
    "the name of another adapter": (
        lambda: {n.replace(".weight", ".mine.weight"): t for n, t in tensors().items()},
        "contains an adapter name .'mine'",
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_odd_configuration_is_one_message(kind: str, tmp_path: Path) -> None:
    config, words = CONFIGS[kind]
    folder, good = adapter(tmp_path / "odd", config), adapter(tmp_path / "good")
    for take in (
        inspect_adapter,
        lambda f: shrink_adapter(f, tmp_path / "out", 1),
        lambda f: compare_adapters(good, f),
    ):
        with pytest.raises(ModelError, match=f"(?s){words}"):
            take(folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", WEIGHTS_OF)
def test_odd_weights_are_one_message(kind: str, tmp_path: Path) -> None:
    make, words = WEIGHTS_OF[kind]
    folder = adapter(tmp_path / "odd", None, make())
    for take in (inspect_adapter, lambda f: shrink_adapter(f, tmp_path / "out", 1)):
        with pytest.raises(ModelError, match=words):
            take(folder)
    assert not (tmp_path / "out").exists()


def test_numbers_near_the_end_of_fp32_are_read_and_not_stored_as_infinite(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "large", None, filled(3e38))
    assert all(np.isfinite(module.norm) for module in inspect_adapter(folder).modules)
    with pytest.raises(ModelError, match="contains numbers beyond fp32"):
        shrink_adapter(folder, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="too large to compute its update"):
        inspect_adapter(adapter(tmp_path / "huge", None, filled(1e200, np.float64)))
    tiny = inspect_adapter(adapter(tmp_path / "tiny", None, filled(1e-40)))
    assert tiny.modules[0].norm > 0


@pytest.mark.parametrize("layer", ["²", "٣", "-1", "1" * 12])
def test_a_layer_that_is_no_small_number_is_read_as_a_name(layer: str, tmp_path: Path) -> None:
    view = inspect_adapter(adapter(tmp_path / "a", None, tensors(layer)))
    assert {module.layer for module in view.modules} == {None, 1}


def test_an_adapter_without_alpha_has_pefts_default(tmp_path: Path) -> None:
    config = {key: value for key, value in GOOD.items() if key != "lora_alpha"}
    folder = adapter(tmp_path / "a", json.dumps(config))
    assert [factors.scale for factors in read_adapter(folder).modules.values()] == [4.0, 4.0], "8 / 2"


@pytest.mark.parametrize("odd", ["\x1b[31m", "\x00", "\x9b", "\u202e", "\uffff", "\ufffe", "\ufdd0", "]]>&<script>"])
def test_a_name_cannot_end_the_process_that_draws_it(odd: str, tmp_path: Path) -> None:
    """The renderer is a library that aborts the whole process at a character that XML may not hold."""
    given = {name.replace("self_attn", f"self{odd}attn"): tensor for name, tensor in tensors().items()}
    svg = heat_map(inspect_adapter(adapter(tmp_path / "a", {"target_modules": ["q_proj"]}, given)))
    assert svg.startswith("<svg")
    assert "<script" not in svg


def test_a_drawing_has_an_end(tmp_path: Path) -> None:
    one = tensors()[f"{MODULE.format(1)}.lora_A.weight"], tensors()[f"{MODULE.format(1)}.lora_B.weight"]
    names = [f"base_model.model.model.layers.0.kind{i}.q_proj" for i in range(301)]
    given = {f"{name}.lora_{side}.weight": matrix for name in names for side, matrix in zip("AB", one, strict=True)}
    view = inspect_adapter(adapter(tmp_path / "a", None, given))
    with pytest.raises(ModelError, match=r"301 kinds.*Use --json instead of --svg"):
        heat_map(view)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({CONFIG: json.dumps(GOOD), "adapter_model.bin": "x"}, r"adapter_model.bin, a pickle.*weights_only=True"),
        ({"lora.pt": "x"}, r"no adapter_config.json, but it has lora.pt, a pickle.*loralib"),
        ({CONFIG: json.dumps(GOOD), "lora.ckpt": "x"}, r"only lora.ckpt, a pickle.*loralib"),
        ({CONFIG: '{"fine_tune_type": "lora"}', "adapters.safetensors": "x"}, r"mlx-lm"),
        ({CONFIG: json.dumps(GOOD)}, r"no weights and no adapter_model.safetensors"),
        ({}, r"not an adapter folder"),
    ],
)
def test_what_is_no_safetensors_adapter_is_named_with_the_way_to_convert_it(
    files: dict[str, str], words: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=words):
        read_adapter(tmp_path)


def test_a_pickle_given_as_the_adapter_is_named(tmp_path: Path) -> None:
    (tmp_path / "lora.pt").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"lora.pt is not an adapter: it is a pickle, which can run code.*loralib"):
        read_adapter(tmp_path / "lora.pt")


# --- folders that are whole, or not there


def test_a_folder_that_could_not_be_filled_is_not_there(tmp_path: Path) -> None:
    def fill(fails: BaseException | None) -> None:
        with new_folder(tmp_path / "out") as place:
            (place / "a").write_text("a")
            if fails:
                raise fails

    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises((StudyError, KeyboardInterrupt)):
            fill(error)
        assert list(tmp_path.iterdir()) == [], "nothing is left of it"
    fill(None)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    with pytest.raises(ModelError, match="is not empty"):
        fill(None)


def test_a_folder_is_never_filled_through_a_link_or_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("mine")
    for name in ("link", "file"):
        with pytest.raises(ModelError, match="is not a folder"), new_folder(tmp_path / name):
            pass
    assert list((tmp_path / "real").iterdir()) == []
    assert (tmp_path / "file").read_text() == "mine"


def test_no_place_for_temporary_files_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(StudyError, match=r"no place for temporary files.*TMPDIR="), scratch_folder():
        pass
