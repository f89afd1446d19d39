"""Adapters that act after every step: AdaLoRA (Zhang et al., arXiv 2303.10512), and AdaMSS of peft 0.21."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import PeftModel

from tunewise.lab.methods.peft_methods import AnyPeft

# What AdaLoRA remembers: moving averages of the importance of every weight, and the ranks that are left.
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
RANKS = "rank_pattern"


class Reallocating(AnyPeft):
    """An adapter whose tuner re-allocates ranks, or masks subspaces, while it trains."""

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Re-allocate."""
        _tuner(model).update_and_allocate(step)


class AdaLora(Reallocating):
    """LoRA whose ranks are re-allocated; it remembers from step to step."""

    def defaults(self) -> dict[str, Any]:
        """Its schedule ends with the run."""
        return {"total_step": self.num_steps}

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """How important every weight was so far, and which ranks are left."""
        tuner = _tuner(model)
        ranks = tuner.peft_config["default"].rank_pattern or {}
        averages = {f"{kind}/{name}": t for kind in AVERAGES for name, t in getattr(tuner.rankallocator, kind).items()}
        return averages | {f"{RANKS}/{name}": torch.tensor(kept) for name, kept in ranks.items()}

    def restore(self, model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        """Restore the averages and the ranks."""
        tuner = _tuner(model)
        config = tuner.peft_config["default"]
        for key, tensor in state.items():
            kind, _, name = key.partition("/")
            if kind == RANKS:
                config.rank_pattern = {**(config.rank_pattern or {}), name: tensor.tolist()}
            else:
                getattr(tuner.rankallocator, kind)[name] = tensor.to(model.device)


# By peft's name of their type; a test asks peft whether there are others. Versions before 0.21 have no AdaMSS.
REALLOCATING: dict[str, type[Reallocating]] = {"ADALORA": AdaLora, "ADAMSS": Reallocating}


def _tuner(model: torch.nn.Module) -> Any:
    return cast(PeftModel, model).base_model
