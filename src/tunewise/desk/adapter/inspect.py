"""Inspect, compare and shrink adapters by their singular values, without the base."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tunewise.adapter.config import WEIGHTS
from tunewise.adapter.file import Factors, LoraAdapter, read_adapter, with_ranks, write_adapter
from tunewise.adapter.lowrank import (
    cosine,
    effective_rank,
    energy_rank,
    inner_product,
    overlap,
    principal_cosines,
    spread_ranks,
    stable_rank,
)
from tunewise.desk.adapter.view import (
    ENERGY_SHARES,
    NUM_ANGLES,
    AdapterView,
    Difference,
    ModuleDifference,
    ModuleView,
    Shrinking,
    ShrunkModule,
)
from tunewise.errors import ModelError, SpecError


def inspect_adapter(folder: Path) -> AdapterView:
    """Ranks, scales and spectra of the adapter in `folder`. Raises ModelError for anything but plain LoRA."""
    adapter = read_adapter(folder)
    modules = tuple(_module(name, factors) for name, factors in adapter.modules.items())
    return AdapterView(
        path=str(folder),
        base=adapter.config.get("base_model_name_or_path"),
        task=adapter.config.get("task_type"),
        ranks=tuple(sorted({module.rank for module in modules})),
        scales=tuple(sorted({module.scale for module in modules})),
        parameters=_parameters(adapter),
        saved_beside={name: int(tensor.size) for name, tensor in adapter.others.items()},
        modules=modules,
        dead=tuple(module.module for module in modules if module.norm == 0),
    )


def _module(name: str, factors: Factors) -> ModuleView:
    s_K = factors.thin.s_K
    layer, kind = place(name)
    return ModuleView(
        module=name,
        layer=layer,
        kind=kind,
        outputs=factors.B_MR.shape[0],
        inputs=factors.A_RN.shape[1],
        rank=factors.rank,
        scale=factors.scale,
        norm=float(np.linalg.norm(s_K)),
        largest=float(s_K[0]),
        effective_rank=effective_rank(s_K),
        stable_rank=stable_rank(s_K),
        energy_ranks={f"{100 * share:g}": energy_rank(s_K, share) for share in ENERGY_SHARES},
        singular_values=tuple(float(value) for value in s_K),
    )


def place(module: str) -> tuple[int | None, str]:
    """'model.layers.12.self_attn.q_proj' -> (12, 'self_attn.q_proj'); (None, the name) without a number."""
    match = re.fullmatch(r"(?:.*?\.)?([0-9]{1,9})\.(.+)", module)
    return (int(match[1]), match[2]) if match else (None, module)


def _parameters(adapter: LoraAdapter) -> int:
    return sum(factors.rank * factors.cost for factors in adapter.modules.values())


# --- two adapters


def compare_adapters(first: Path, second: Path) -> Difference:
    """Similarity of two adapters of one base, module by module. Raises ModelError if they share no module."""
    one, other = read_adapter(first), read_adapter(second)
    common = [name for name in one.modules if name in other.modules]
    if not common:
        raise ModelError(f"{first} and {second} have no module in common, so there is nothing to compare.")
    modules = tuple(_difference(name, one.modules[name], other.modules[name]) for name in common)
    products = [inner_product(one.modules[name].thin, other.modules[name].thin) for name in common]
    norms = [math.sqrt(sum(module.norms[side] ** 2 for module in modules)) for side in (0, 1)]
    return Difference(
        first=str(first),
        second=str(second),
        cosine=sum(products) / (norms[0] * norms[1]) if norms[0] and norms[1] else None,
        modules=modules,
        only_first=tuple(name for name in one.modules if name not in other.modules),
        only_second=tuple(name for name in other.modules if name not in one.modules),
    )


def _difference(name: str, one: Factors, other: Factors) -> ModuleDifference:
    shapes = [(factors.B_MR.shape[0], factors.A_RN.shape[1]) for factors in (one, other)]
    if shapes[0] != shapes[1]:
        raise ModelError(f"{name} is {shapes[0]} in one adapter and {shapes[1]} in the other, so their bases differ.")
    thin, second = one.thin, other.thin
    cosines = principal_cosines(thin.U_MK, second.U_MK)
    norms = (float(np.linalg.norm(thin.s_K)), float(np.linalg.norm(second.s_K)))
    apart = math.sqrt(max(0.0, norms[0] ** 2 + norms[1] ** 2 - 2 * inner_product(thin, second)))
    return ModuleDifference(
        module=name,
        cosine=cosine(thin, second),
        overlap_outputs=overlap(thin.U_MK, second.U_MK),
        overlap_inputs=overlap(thin.V_NK, second.V_NK),
        by_chance=max(len(thin.s_K), len(second.s_K)) / shapes[0][0],
        angles=tuple(float(angle) for angle in np.degrees(np.arccos(cosines))[:NUM_ANGLES]),
        norms=norms,
        distance=apart / norms[0] if norms[0] else None,
    )


# --- a smaller one


def shrink_adapter(
    folder: Path, out: Path, rank: int | None = None, energy: float | None = None, spread: bool = False
) -> Shrinking:
    """Write a smaller adapter into `out` and return the loss: at most `rank` everywhere, or `energy` of every module.

    `spread`: distribute the parameters of `rank` over the modules so that most energy is kept.
    Raises SpecError for options that do not fit together, ModelError for anything but plain LoRA.
    """
    adapter = read_adapter(folder)
    ranks, rule = _chosen_ranks(adapter, rank, energy, spread)
    kept = {name: factors.thin.truncated(ranks[name]) for name, factors in adapter.modules.items()}
    smaller = with_ranks(adapter, kept)
    write_adapter(smaller, out)
    squares = {name: (float(f.thin.s_K @ f.thin.s_K), _tail(f, ranks[name])) for name, f in adapter.modules.items()}
    return Shrinking(
        path=str(folder),
        out=str(out),
        rule=rule,
        parameters_before=_parameters(adapter),
        parameters=_parameters(smaller),
        bytes_before=(folder / WEIGHTS).stat().st_size,
        bytes=(out / WEIGHTS).stat().st_size,
        lost=_share(sum(lost for _, lost in squares.values()), sum(whole for whole, _ in squares.values())),
        modules=tuple(
            ShrunkModule(
                module=name,
                rank_before=factors.rank,
                rank=smaller.modules[name].rank,
                lost=_share(squares[name][1], squares[name][0]),
            )
            for name, factors in adapter.modules.items()
        ),
    )


def _tail(factors: Factors, rank: int) -> float:
    return float((factors.thin.s_K[rank:] ** 2).sum())


def _share(lost_square: float, whole_square: float) -> float | None:
    return math.sqrt(lost_square / whole_square) if whole_square > 0 else None


def _chosen_ranks(
    adapter: LoraAdapter, rank: int | None, energy: float | None, spread: bool
) -> tuple[Mapping[str, int], str]:
    if (rank is None) == (energy is None):
        raise SpecError("give either --rank or --energy, for example --rank 8 or --energy 0.95.")
    if energy is not None:
        if not 0 < energy <= 1:
            raise SpecError(
                f"--energy is a share of the squared norm. It must be above 0 and at most 1, but got {energy:g}."
            )
        if spread:
            raise SpecError("--spread works only with --rank; --energy already chooses a rank per module.")
        ranks = {name: max(1, energy_rank(factors.thin.s_K, energy)) for name, factors in adapter.modules.items()}
        return ranks, f"{energy:.4g} of every module's squared norm"
    assert rank is not None, "one of both is given"
    if rank < 1:
        raise SpecError(f"--rank must be at least 1, but got {rank}.")
    if not spread:
        return dict.fromkeys(adapter.modules, rank), f"rank {rank} at most"
    costs = {name: factors.cost for name, factors in adapter.modules.items()}
    spectra = {name: factors.thin.s_K for name, factors in adapter.modules.items()}
    return spread_ranks(spectra, costs, rank * sum(costs.values())), f"the parameters of rank {rank}, by energy"
