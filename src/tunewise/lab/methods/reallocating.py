"""Adapters that act after every step: AdaLoRA (Zhang et al., arXiv 2303.10512), and AdaMSS of peft 0.21."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import PeftModel

from tunewise.lab.methods.peft_methods import AnyPeft

# State of AdaLoRA: moving averages of the importance of every weight, and the remaining ranks.
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
RANKS = "rank_pattern"


class Reallocating(AnyPeft):
    """An adapter whose tuner reallocates ranks, or masks subspaces, during training."""

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Reallocate ranks."""
        _tuner(model).update_and_allocate(step)


class AdaLora(Reallocating):
    """LoRA with reallocated ranks; it keeps state between steps."""

    def defaults(self) -> dict[str, Any]:
        """Schedule that ends with the run."""
        return {"total_step": self.num_steps}

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Importance of every weight so far, and the remaining ranks."""
        tuner = _tuner(model)
        ranks = tuner.peft_config["default"].rank_pattern or {}
        averages = {f"{kind}/{name}": t for kind in AVERAGES for name, t in getattr(tuner.rankallocator, kind).items()}
        return averages | {f"{RANKS}/{name}": torch.tensor(kept) for name, kept in ranks.items()}

    def restore(self, model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        """Restore AdaLoRA's averages and ranks."""
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
