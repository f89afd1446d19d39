"""What a TorchFunctionMode would cost a step, beside replacing `torch.nn.functional.dropout` (`lab/train/dropout.py`).

A mode is asked before every call of torch, so its cost depends on the number of calls and not on their size: it is
measured on micro-batches of two short texts, in turns, as CPU time of one thread, and stands for any micro-batch.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from machine import environment
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, GPT2Config

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, Example
from tunewise.lab.methods import build_method
from tunewise.lab.models.fusing import fuse
from tunewise.lab.models.load import Base, load_base, load_config, load_tokenizer
from tunewise.lab.models.packing import fit_attention
from tunewise.lab.train import loop
from tunewise.lab.train.begin import make_trainable
from tunewise.lab.train.dropout import dropout, quick_dropout
from tunewise.lab.train.optim import LearningRates
from tunewise.spec import LoraMethod, TrainSpec

SHORT, USUAL = (4, 4), (40, 60, 25, 70, 35, 80, 55, 115)  # tokens of the texts of a micro-batch
TORCH_DROPOUT = F.dropout
Context = Callable[[], AbstractContextManager[Any]]


class Mode(TorchFunctionMode):
    """Ours in the place of torch's dropout, by asking before every call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, or ours."""
        return (dropout if func is TORCH_DROPOUT else func)(*args, **(kwargs or {}))


def base_of(name: str) -> Base:
    """The bundled base, its dropout switched on, or a GPT-2 small with drawn weights."""
    if name == "gpt2":
        return Base(AutoModelForCausalLM.from_config(GPT2Config()), (), ())
    base = load_base(name, "sft", (), load_tokenizer(name, load_config(name, "sft", False), False), False)
    for module in base.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    return base


def gradients_of(name: str, lengths: tuple[int, ...]) -> Callable[[Context], tuple[float, list[torch.Tensor]]]:
    """CPU seconds of one LoRA gradient in bf16, and the gradient; the same draws every time."""
    torch.manual_seed(0)
    base = base_of(name)
    method = build_method(LoraMethod(rank=8, dropout=0.1), "sft", 1)
    model, compute, draw = method.prepare(base), Compute("cpu", "bf16"), random.Random(0)
    fuse(model)
    packed = fit_attention(model, None, "sft")
    optimizer = make_trainable((model, method), (), TrainSpec(), LearningRates(1e-5, None), compute)
    settings = loop.Loop(optimizer, [], 1.0, compute, method.after_step)
    ids = [[draw.randrange(4, 1000) for _ in range(length)] for length in lengths]
    examples = [Example("", "", one, [t >= len(one) // 2 for t in range(len(one))], 0, -1, "", "") for one in ids]
    batch = Batching(2 * sum(lengths), 0, packed).batch(examples, range(len(examples)))

    def gradient(context: Context) -> tuple[float, list[torch.Tensor]]:
        torch.manual_seed(1)
        loop.quick_dropout = context
        start = time.thread_time()
        loop.compute_gradient(model, [batch], batch.num_targets, settings)
        seconds = time.thread_time() - start
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.zero_grad()
        return seconds, found

    return gradient


def main() -> None:
    """Print one line per base."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    print(environment())
    for name in ("tiny", "gpt2"):
        short, usual = gradients_of(name, SHORT), gradients_of(name, USUAL)
        (_, one), (_, other) = short(quick_dropout), short(Mode)
        same = all(map(torch.equal, one, other))
        extra = sorted(1e3 * (short(Mode)[0] - short(quick_dropout)[0]) for _ in range(pairs))
        low, high = (extra[round(pairs / 2 + sign * math.sqrt(pairs))] for sign in (-1, 1))
        step = 1e3 * statistics.median(usual(quick_dropout)[0] for _ in range(5))
        middle = statistics.median(extra)
        print(
            f"{name}: a mode costs {middle:.2f} ms a micro-batch (median of {pairs}, {low:.2f} to {high:.2f}); the "
            f"gradient of {sum(USUAL)} tokens takes {step:.0f} ms: {100 * middle / step:.1f}%. Equal gradients: {same}"
        )


if __name__ == "__main__":
    main()
