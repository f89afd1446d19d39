"""Fused kernels for what models and peft compute in several passes over memory; in bf16 they also round less often."""

from typing import Any

import torch
from peft.tuners import lora
from peft.tuners.lora.layer import LoraVariant
from transformers.activations import ACT2FN

# GELU, which transformers writes as powers, sums and a tanh, each a pass that is kept for the gradient.
WRITTEN_OUT = tuple(type(ACT2FN[name]) for name in ("gelu_new", "gelu_fast"))


def fuse(model: torch.nn.Module) -> None:
    """Let one kernel compute GELU's tanh approximation, and one add a LoRA update to the output of its layer.

    Formulas: Hendrycks and Gimpel, Gaussian Error Linear Units (arXiv 1606.08415), section 2; Hu et al., LoRA (arXiv
    2106.09685), section 4.1.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) in WRITTEN_OUT:
                setattr(module, name, ACT2FN["gelu_pytorch_tanh"])
        if type(module) is lora.Linear:
            for adapter, up in module.lora_B.items():
                if up.bias is None:  # DoRA and similar methods, which have a variant, are left unchanged
                    module.lora_variant.setdefault(adapter, _AddedAtOnce())


class _AddedAtOnce(LoraVariant):  # type: ignore[misc]
    """result + scale * B A x in one pass; peft multiplies, scales and adds in three passes of full width."""

    @staticmethod
    def forward(
        module: lora.LoraLayer, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        low = module.lora_A[active_adapter](module.lora_dropout[active_adapter](x)).flatten(0, -2)
        B_RM = module.lora_B[active_adapter].weight.t()
        return torch.addmm(result.flatten(0, -2), low, B_RM, alpha=module.scaling[active_adapter]).view_as(result)
