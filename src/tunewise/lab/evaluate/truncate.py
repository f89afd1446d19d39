"""Truncate a trained LoRA adapter, in place, to the nearest adapter of every lower rank."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft.tuners.lora import LoraLayer

from tunewise.adapter.lowrank import Thin, spread_ranks, thin_svd
from tunewise.adapter.refusals import PREFIX

ADAPTER = "default"


@dataclass(frozen=True)
class Truncation:
    """One way to truncate an adapter."""

    rank: int
    spread: bool  # True: the parameter count of a uniform `rank`, spread over the modules by energy
    ranks: Mapping[str, int]  # of every module, by its name in the base


def truncations(model: torch.nn.Module, ranks: Sequence[int]) -> Iterator[Truncation]:
    """Every truncation in turn, applied to the model while the caller holds it; restored at the end.

    Each rank is applied twice: uniformly, and with its parameters spread by energy. For methods whose update is scale *
    B A.
    """
    found = model.named_modules()
    layers = {name.removeprefix(PREFIX): layer for name, layer in found if isinstance(layer, LoraLayer)}
    updates = {name: _update(layer) for name, layer in layers.items()}
    costs = {name: layer.in_features + layer.out_features for name, layer in layers.items()}
    spectra = {name: update.s_K for name, update in updates.items()}
    trained = {name: [factor.data for factor in _factors(layer)] for name, layer in layers.items()}
    try:
        for spread in (False, True):
            for rank in ranks:
                chosen: Mapping[str, int] = dict.fromkeys(layers, rank)
                if spread:
                    chosen = spread_ranks(spectra, costs, rank * sum(costs.values()))
                for name, layer in layers.items():
                    _put(layer, updates[name].truncated(chosen[name]))
                yield Truncation(rank, spread, chosen)
    finally:
        for name, layer in layers.items():
            for factor, before in zip(_factors(layer), trained[name], strict=True):
                factor.data = before


def _factors(layer: LoraLayer) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight


def _update(layer: LoraLayer) -> Thin:
    A_RN, B_MR = (factor.detach().double().cpu().numpy() for factor in _factors(layer))
    return thin_svd(B_MR, A_RN, layer.scaling[ADAPTER])


def _put(layer: LoraLayer, update: Thin) -> None:
    """Make `update` what the layer adds, in factors of its own rank or, padded with zeros, the next power of two.

    Narrower factors are faster to score, but on CPU a rank that no other module or truncation has needs a new kernel.
    """
    B_MK, A_KN = update.factors(layer.scaling[ADAPTER])
    num_zeros = (1 << (A_KN.shape[0] - 1).bit_length()) - A_KN.shape[0]
    wide = np.pad(A_KN, ((0, num_zeros), (0, 0))), np.pad(B_MK, ((0, 0), (0, num_zeros)))
    for factor, value in zip(_factors(layer), wide, strict=True):
        factor.data = torch.from_numpy(value).to(factor).contiguous()
