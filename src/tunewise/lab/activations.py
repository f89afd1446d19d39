"""The tanh approximation of GELU as one kernel instead of seven."""

import torch
from transformers.activations import ACT2FN

# Written out in transformers as powers, sums and a tanh, each a pass over memory that is kept for the gradient.
WRITTEN_OUT = tuple(type(ACT2FN[name]) for name in ("gelu_new", "gelu_fast"))


def fuse_activations(model: torch.nn.Module) -> None:
    """Let torch's kernel compute what GPT-2 and its relatives write out; in bf16 it rounds once instead of seven times.

    Formula: Hendrycks and Gimpel, Gaussian Error Linear Units (arXiv 1606.08415), section 2.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) in WRITTEN_OUT:
                setattr(module, name, ACT2FN["gelu_pytorch_tanh"])
