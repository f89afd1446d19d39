"""A LoRA adapter as peft stores it, read and written without torch.

Only adapters whose update is exactly scale * B A are read; every other kind is refused by its name.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

from tunewise.disk import new_folder, told
from tunewise.errors import ModelError
from tunewise.lowrank import Thin, thin_svd

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(\.[^.]+)??(\.weight)?")
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
# Options of a LoRA config with which the update is not scale * B A on the base's own weight.
OTHER_UPDATES = {
    "use_dora": "DoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "LoRA with a bias",
    "layer_replication": "LoRA on replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
# Options by which peft imports a module that the adapter names (Megatron's layers).
IMPORTING = ("megatron_config",)
SPLIT_STARTS = ("pissa", "olora", "corda", "lora_ga", "loftq")


@dataclass(frozen=True)
class Factors:
    """One adapted module: the update is scale * B A, (M, N)."""

    B_MR: npt.NDArray[Any]
    A_RN: npt.NDArray[Any]
    scale: float
    is_embedding: bool = False

    @property
    def rank(self) -> int:
        """Rows of A."""
        return int(self.A_RN.shape[0])

    @property
    def cost(self) -> int:
        """Parameters of one rank, M + N."""
        return int(self.B_MR.shape[0] + self.A_RN.shape[1])

    @cached_property
    def thin(self) -> Thin:
        """The update by its singular values."""
        return thin_svd(self.B_MR, self.A_RN, self.scale)


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter: its configuration, its factors by module, and what is saved beside them."""

    config: dict[str, Any]
    modules: dict[str, Factors]  # by the module's name in the base, in the base's order
    others: dict[str, npt.NDArray[Any]]  # tensors of heads and other modules that were trained whole


def require_safe(folder: Path) -> None:
    """Raises ModelError for an adapter of pickled weights, and for one that has a module of its own choice imported."""
    if not (folder / WEIGHTS).is_file():
        pickled = next((path.name for path in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))), None)
        what = f"only {pickled}, a pickle, which can run code" if pickled else "no weights"
        raise ModelError(
            f"{folder} is no adapter that is loaded: it has {what} and no {WEIGHTS}. Load it where you trust it, with "
            "PeftModel.from_pretrained(base, folder), and call save_pretrained(folder, safe_serialization=True)."
        )
    try:
        with told(folder / CONFIG, "read"):
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder} is damaged: {CONFIG} is no JSON: {error}. Download or save it again.") from error
    if not isinstance(config, dict) or config.get("peft_type") is None:
        raise ModelError(f"{folder}: {CONFIG} names no peft_type, so it is no adapter of peft's.")
    if named := [option for option in IMPORTING if config.get(option)]:
        raise ModelError(
            f"{folder}: {CONFIG} sets {named[0]}, by which peft imports a module that it names. Take it out."
        )


def read_adapter(folder: Path) -> LoraAdapter:
    """The adapter in `folder`. Raises ModelError where there is none, and for kinds that are no plain LoRA."""
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} is no adapter: it has no {CONFIG}.")
    require_safe(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = _read_tensors(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise ModelError(f"{folder} is damaged: {error}. Download or save it again.") from error
    _refuse_other_kinds(folder, config)
    factors: dict[str, dict[str, npt.NDArray[Any]]] = {}
    others = {}
    for name, tensor in tensors.items():
        match = FACTOR.fullmatch(name)
        if match:
            factors.setdefault(match["module"], {})[match["side"]] = tensor
        else:
            others[name] = tensor
    embeddings = {match["module"] for name in tensors if (match := FACTOR.fullmatch(name)) and match["kind"]}
    modules = {
        module.removeprefix(PREFIX): _factors(folder, module, sides, config, module in embeddings)
        for module, sides in sorted(factors.items(), key=lambda item: _in_order(item[0]))
    }
    if not modules:
        raise ModelError(f"{folder} holds no LoRA factors (lora_A, lora_B).")
    return LoraAdapter(config, modules, others)


def write_adapter(adapter: LoraAdapter, folder: Path) -> None:
    """Write a standard peft adapter, factors in fp32. Raises ModelError where `folder` is in use."""
    tensors = dict(adapter.others)
    for module, factors in adapter.modules.items():
        kind, end = ("embedding_", "") if factors.is_embedding else ("", ".weight")
        tensors[f"{PREFIX}{module}.lora_{kind}A{end}"] = np.ascontiguousarray(factors.A_RN, dtype=np.float32)
        tensors[f"{PREFIX}{module}.lora_{kind}B{end}"] = np.ascontiguousarray(factors.B_MR, dtype=np.float32)
    with new_folder(folder) as place:
        save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
        (place / CONFIG).write_text(json.dumps(adapter.config, indent=2, sort_keys=True), encoding="utf-8")


def with_ranks(adapter: LoraAdapter, updates: Mapping[str, Thin]) -> LoraAdapter:
    """The adapter with these updates in the place of its own; each module keeps its scale.

    Where ranks or scales differ, `rank_pattern` and `alpha_pattern` name every module.
    """
    modules = {}
    for name, factors in adapter.modules.items():
        B, A = updates[name].factors(factors.scale)
        modules[name] = Factors(B, A, factors.scale, factors.is_embedding)
    ranks = {name: factors.rank for name, factors in modules.items()}
    alphas = {name: _alpha(factors, bool(adapter.config.get("use_rslora"))) for name, factors in modules.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = {
        **adapter.config,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "rank_pattern": {} if {*ranks.values()} == {rank} else ranks,
        "alpha_pattern": {} if {*alphas.values()} == {alpha} else alphas,
    }
    return LoraAdapter(config, modules, adapter.others)


def _alpha(factors: Factors, is_rank_stabilised: bool) -> float:
    return factors.scale * (math.sqrt(factors.rank) if is_rank_stabilised else factors.rank)


def _refuse_other_kinds(folder: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type"))
    what = None if kind == "LORA" else kind
    for option, name in OTHER_UPDATES.items():
        if config.get(option):
            what = name
    if what:
        raise ModelError(
            f"{folder} is {what}: its change of the weights is no product of two factors, so it cannot be taken apart "
            "exactly. `tunewise adapter merge` and `verify` work on whatever peft can merge."
        )
    start = str(config.get("init_lora_weights"))
    if start.startswith(SPLIT_STARTS):
        raise ModelError(
            f"{folder} is in the format of {start}, where B A holds a part of the base's weight, too. Convert it with "
            "peft: save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )


def _factors(
    folder: Path, module: str, sides: Mapping[str, npt.NDArray[Any]], config: Mapping[str, Any], is_embedding: bool
) -> Factors:
    if set(sides) != {"A", "B"} or any(side.ndim != 2 for side in sides.values()):
        shapes = {name: side.shape for name, side in sides.items()}
        raise ModelError(f"{folder}: {module} has the factors {shapes}, but a pair of matrices was expected.")
    rank = sides["A"].shape[0]
    alpha = _of_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if scale <= 0:
        raise ModelError(f"{folder}: {module} has the scale {scale:g}, but it must be above 0 (lora_alpha).")
    return Factors(sides["B"], sides["A"], float(scale), is_embedding)


def _of_pattern(pattern: Mapping[str, float], module: str, otherwise: float) -> float:
    """What a peft pattern says of a module: the value of the first key that its name ends with, as a regex."""
    name = module.removeprefix(PREFIX)
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), otherwise)


def _in_order(module: str) -> list[tuple[int, str]]:
    """Names sorted with their numbers as numbers: layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in module.split(".")]


def _read_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All tensors as numpy arrays; bf16, which numpy lacks, as fp32."""
    with told(path, "read"):
        stored = path.read_bytes()
    found = {}
    for name, content in deserialize(stored):  # type: ignore[no-untyped-call]
        dtype, data, shape = content["dtype"], content["data"], content["shape"]
        if dtype == "BF16":
            # bf16 is the upper half of an fp32
            values = (np.frombuffer(data, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif dtype in DTYPES:
            values = np.frombuffer(data, dtype=DTYPES[dtype])
        else:
            raise ValueError(f"tensor {name} is stored as {dtype}; allowed are F64, F32, F16, BF16")
        found[name] = values.reshape(shape)
    return found
