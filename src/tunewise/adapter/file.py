"""A LoRA adapter as peft stores it, read and written without torch.

Only adapters whose update is exactly scale * B A are read; every other kind is refused by name.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

from tunewise.adapter.config import CONFIG, MAX_PATTERNS, WEIGHTS, LoraOptions, require_known_options, require_safe
from tunewise.adapter.lowrank import Thin, thin_svd
from tunewise.adapter.patterns import NamePattern, deadline, name_ends
from tunewise.adapter.refusals import PREFIX, refuse_other_kinds, require_factor, require_plain_names, require_targeted
from tunewise.errors import ModelError, clause
from tunewise.spec.mistakes import shown
from tunewise.storage.disk import new_folder
from tunewise.storage.files import reraise_as_study_error

Matrix = npt.NDArray[Any]
MAX_NAME = 1_000  # characters of a module's name; real ones have up to about 100
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(\.(?P<adapter>[^.]+))??(\.weight)?")
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


@dataclass(frozen=True)
class Factors:
    """One adapted module: the update is scale * B A, (M, N)."""

    B_MR: Matrix
    A_RN: Matrix
    scale: float
    is_embedding: bool = False

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return int(self.A_RN.shape[0])

    @property
    def cost(self) -> int:
        """Parameters of one rank, M + N."""
        return int(self.B_MR.shape[0] + self.A_RN.shape[1])

    @cached_property
    def thin(self) -> Thin:
        """Singular value decomposition of the update. Raises ModelError if float64 cannot hold it."""
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                found = thin_svd(self.B_MR, self.A_RN, self.scale)
                is_finite = bool(np.isfinite(found.s_K @ found.s_K))
            except np.linalg.LinAlgError:
                is_finite = False
        if not is_finite:
            raise ModelError("the adapter's values are too large to compute its update. The file is damaged.")
        return found


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter: its configuration, its factors by module, and other tensors saved with them."""

    config: dict[str, Any]
    modules: dict[str, Factors]  # by the module's name in the base, in the base's order
    others: dict[str, Matrix]  # tensors of heads and other modules that were trained fully


def read_adapter(folder: Path) -> LoraAdapter:
    """The adapter in `folder`. Raises ModelError if there is none, or if it is not plain LoRA."""
    config = require_safe(folder)
    refuse_other_kinds(folder, config)
    require_known_options(f"{folder}/{CONFIG}", config, LoraOptions.model_fields)
    tensors = _read_tensors(folder / WEIGHTS)
    require_plain_names(folder, tensors)
    factors: dict[str, dict[str, Matrix]] = {}
    others, embeddings = {}, set()
    for name, tensor in tensors.items():
        match = FACTOR.fullmatch(name)
        require_factor(folder, name, match)
        if match is None:
            others[name] = tensor
            continue
        factors.setdefault(match["module"], {})[match["side"]] = tensor
        if match["kind"]:
            embeddings.add(match["module"])
    if not factors:
        raise ModelError(f"{folder} contains no LoRA factors (lora_A, lora_B).")
    longest = max(map(len, factors))
    if longest > MAX_NAME:
        raise ModelError(f"{folder}: a module name has {longest:,} characters; at most {MAX_NAME:,} are read.")
    options = LoraOptions.model_validate(config)
    require_targeted(folder, options, factors)
    values = _PatternValues(folder, options, list(factors))
    modules = {
        module.removeprefix(PREFIX): _factors(folder, module, sides, values, module in embeddings)
        for module, sides in sorted(factors.items(), key=lambda item: _in_order(item[0]))
    }
    return LoraAdapter(config, modules, others)


def write_adapter(adapter: LoraAdapter, folder: Path) -> None:
    """Write a standard peft adapter with fp32 factors.

    Raises ModelError if `folder` is in use, and for numbers that fp32 cannot hold; then nothing is written.
    """
    tensors = dict(adapter.others)
    for module, factors in adapter.modules.items():
        kind, end = ("embedding_", "") if factors.is_embedding else ("", ".weight")
        for side, matrix in (("A", factors.A_RN), ("B", factors.B_MR)):
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(matrix, dtype=np.float32)
            if not np.isfinite(stored).all():
                raise ModelError(f"{module}: factor {side} contains numbers beyond fp32, so it cannot be stored.")
            tensors[f"{PREFIX}{module}.lora_{kind}{side}{end}"] = stored
    with new_folder(folder) as place:
        save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
        (place / CONFIG).write_text(json.dumps(adapter.config, indent=2, sort_keys=True), encoding="utf-8")


def with_ranks(adapter: LoraAdapter, updates: Mapping[str, Thin]) -> LoraAdapter:
    """The adapter with these updates instead of its own; each module keeps its scale.

    If ranks or scales differ, `rank_pattern` and `alpha_pattern` name every module.
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


class _PatternValues:
    """Rank and alpha of every module as peft reads them: from the first matching pattern, else r and alpha."""

    def __init__(self, folder: Path, options: LoraOptions, modules: Sequence[str]) -> None:
        self.options = options
        names = [module.removeprefix(PREFIX) for module in modules]
        self.ranks = _by_pattern(f"{folder}/{CONFIG}: rank_pattern", options.rank_pattern or {}, names)
        self.alphas = _by_pattern(f"{folder}/{CONFIG}: alpha_pattern", options.alpha_pattern or {}, names)

    def rank(self, name: str) -> int:
        """Rank according to the configuration."""
        return int(self.ranks.get(name, self.options.r))

    def scale(self, name: str, rank: int) -> float:
        """Factor on B A."""
        alpha = self.alphas.get(name, self.options.lora_alpha)
        return alpha / (math.sqrt(rank) if self.options.use_rslora else rank)


def _by_pattern(place: str, pattern: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    if len(pattern) > MAX_PATTERNS:
        raise ModelError(f"{place} has {len(pattern):,} keys; at most {MAX_PATTERNS:,} are read.")
    found: dict[str, float] = {}
    left, end = list(names), deadline()
    for key, value in pattern.items():
        longest = max(map(len, left), default=0)
        found |= dict.fromkeys(NamePattern(name_ends(key), place, longest).matching(left, end), value)
        left = [name for name in left if name not in found]
    return found


def _factors(
    folder: Path, module: str, sides: Mapping[str, Matrix], values: _PatternValues, is_embedding: bool
) -> Factors:
    shapes = {name: side.shape for name, side in sides.items()}
    if set(sides) != {"A", "B"} or any(side.ndim != 2 or not side.size for side in sides.values()):
        raise ModelError(f"{folder}: {module} has the factors {shapes}, but a pair of matrices was expected.")
    name, rank = module.removeprefix(PREFIX), sides["A"].shape[0]
    if sides["B"].shape[1] != rank:
        raise ModelError(f"{folder}: {module} has the factors {shapes}, but B must have as many columns as A has rows.")
    if rank != values.rank(name):
        raise ModelError(
            f"{folder}: {module} has factors of rank {rank}, but {CONFIG} gives {values.rank(name)} (r, rank_pattern). "
            "peft would not load it. Correct the configuration, or save the adapter again."
        )
    scale = values.scale(name, rank)
    if not 0 < scale < math.inf:
        raise ModelError(f"{folder}: {module} has the scale {scale:g}, but it must be above 0. Correct lora_alpha.")
    return Factors(sides["B"], sides["A"], float(scale), is_embedding)


def _in_order(module: str) -> list[tuple[int, str]]:
    """Names sorted with their numbers as numbers: layer 2 before layer 10."""
    return [(int(part), "") if re.fullmatch(r"[0-9]{1,9}", part) else (-1, part) for part in module.split(".")]


def _read_tensors(path: Path) -> dict[str, Matrix]:
    """All tensors as numpy arrays; bf16, which numpy lacks, as fp32. Raises ModelError for a damaged file and NaN."""
    with reraise_as_study_error(path, "read"):
        stored = path.read_bytes()
    try:
        found = {name: _array(name, content) for name, content in deserialize(stored)}  # type: ignore[no-untyped-call]
    except (ValueError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged: {clause(error)}. Download or save it again.") from error
    if broken := [name for name, tensor in found.items() if not np.isfinite(tensor).all()]:
        raise ModelError(
            f"{path}: {len(broken)} of {len(found)} tensors contain NaN or infinite numbers, "
            f"such as {shown(broken[0])}. "
            "The training diverged, or the file is damaged. Train again, or use an earlier checkpoint."
        )
    return found


def _array(name: str, content: Mapping[str, Any]) -> Matrix:
    dtype, data, shape = content["dtype"], content["data"], content["shape"]
    if dtype == "BF16":
        # bf16 is the upper half of an fp32
        return (np.frombuffer(data, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if dtype not in DTYPES:
        raise ValueError(f"tensor {shown(name)} is stored as {dtype}; allowed are F64, F32, F16, BF16")
    return np.frombuffer(data, dtype=DTYPES[dtype]).reshape(shape)
