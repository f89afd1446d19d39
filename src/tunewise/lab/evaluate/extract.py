"""The update of full fine-tuning in every linear module, and the base with an adapter extracted from it.

Shapes: M outputs, N inputs, K = min(M, N). Weights of Conv1D modules are stored (N, M) and transposed here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from tunewise.adapter.lowrank import Thin, intruders
from tunewise.lab.methods.targets import linear_modules, resolve_targets
from tunewise.lab.models.load import Base

LEADING = 10  # directions among which intruders are counted (Shuttleworth et al. 2024, arXiv 2410.21228)


@dataclass(frozen=True)
class Change:
    """Difference of a tuned model and its base, by module."""

    modules: tuple[dict[str, Any], ...]  # rows of records.SPECTRUM_SCHEMA: all linear modules except heads
    updates: Mapping[str, Thin]  # of modules with adapters to extract, up to the highest rank
    asked: Mapping[str, Sequence[int]]  # targets -> ranks
    names: Mapping[str, Sequence[str]]  # targets -> full names of their modules


@dataclass(frozen=True)
class Extraction:
    """An adapter extracted from full fine-tuning."""

    targets: str
    rank: int | None  # None: the whole update of the targets


def find_change(tuned: torch.nn.Module, base: Base, asked: Mapping[str, Sequence[int]]) -> Change:
    """Difference of `tuned` and `base`, module by module. Raises SpecError for targets that match nothing.

    Costs three singular value decompositions of every linear module, in float64.
    """
    names = {targets: resolve_targets(base, targets).names for targets in asked}
    depth = {name: max(max(asked[t]) for t in asked if name in names[t]) for of in names.values() for name in of}
    rows, updates = [], {}
    for name in linear_modules(base):
        before_MN, after_MN = (_matrix(model, name) for model in (base.model, tuned))
        U_MK, s_K, Vt_KN = torch.linalg.svd(after_MN - before_MN, full_matrices=False)
        update = Thin(U_MK.cpu().numpy(), s_K.cpu().numpy(), Vt_KN.cpu().numpy().T)
        row = {"module": name, "num_outputs": before_MN.shape[0], "num_inputs": before_MN.shape[1]}
        row |= {"base_norm": float(before_MN.norm()), "singular_values": update.s_K.tolist()}
        rows.append({**row, "intruders": _intruders(before_MN, after_MN)})
        if name in depth:
            short = update.truncated(depth[name])
            updates[name] = Thin(short.U_MK.copy(), short.s_K, short.V_NK.copy())  # views would keep everything
    return Change(tuple(rows), updates, asked, names)


@torch.no_grad()
def extractions(tuned: torch.nn.Module, base: Base, change: Change) -> Iterator[Extraction]:
    """Every adapter in turn, applied to the base while the caller holds it; the base is restored at the end.

    Like a LoRA arm it changes only the weights of its targets, and has the trained heads.
    """
    for head in base.head_modules:
        base.model.get_submodule(head).load_state_dict(tuned.get_submodule(head).state_dict())
    for targets, names in change.names.items():
        weights = {name: base.model.get_parameter(f"{name}.weight") for name in names}
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            for rank in (*change.asked[targets], None):
                for name, weight in weights.items():
                    if rank is None:
                        weight.copy_(tuned.get_parameter(f"{name}.weight"))
                        continue
                    update_MN = torch.from_numpy(change.updates[name].truncated(rank).dense()).to(weight)
                    turned = isinstance(base.model.get_submodule(name), Conv1D)
                    weight.copy_(before[name] + (update_MN.T if turned else update_MN))
                yield Extraction(targets, rank)
        finally:
            for name, weight in weights.items():
                weight.copy_(before[name])


def _matrix(model: torch.nn.Module, name: str) -> torch.Tensor:
    """The weight (M, N) in float64; on the CPU if the device has no float64."""
    module = model.get_submodule(name)
    weight = model.get_parameter(f"{name}.weight").detach()
    matrix = (weight if weight.device.type == "cuda" else weight.cpu()).double()
    return matrix.T if isinstance(module, Conv1D) else matrix


def _intruders(before_MN: torch.Tensor, after_MN: torch.Tensor) -> int:
    known, tuned = (np.asarray(torch.linalg.svd(m, full_matrices=False)[0].cpu()) for m in (before_MN, after_MN))
    return intruders(tuned[:, :LEADING], known)
