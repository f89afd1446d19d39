"""Optimizer and schedule: the same policy in every arm."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tunewise.spec import TrainSpec


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rates of a run."""

    body: float  # of everything trained except heads
    head: float | None  # of new heads; None: that of the body


def parameter_groups(
    model: torch.nn.Module, heads: Sequence[str], train: TrainSpec, rates: LearningRates
) -> list[dict[str, object]]:
    """AdamW groups of everything that is trained: matrices decay, vectors (biases, norms) do not.

    Modules in `heads` have groups of their own at the learning rate of heads. Each group has a name for the record.
    """
    groups: dict[str, dict[str, object]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_head = rates.head is not None and any(f".{head}." in f".{name}" for head in heads)
        decays = parameter.dim() >= 2
        group_name = f"{'head' if in_head else 'body'}, {'decayed' if decays else 'not decayed'}"
        group = groups.setdefault(
            group_name,
            {
                "name": group_name,
                "params": [],
                "lr": rates.head if in_head else rates.body,
                "weight_decay": train.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)  # type: ignore[attr-defined]
    return [groups[name] for name in sorted(groups)]


def describe_groups(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """One line per group: name, number of parameters, learning rate, decay. Call before training."""
    return tuple(
        f"{group['name']}: {sum(p.numel() for p in group['params']):,} parameters, "
        f"learning rate {group['lr']:g}, weight decay {group['weight_decay']:g}"
        for group in optimizer.param_groups
    )


def make_optimizer(groups: list[dict[str, object]], train: TrainSpec, device: str) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused if torch supports it, the same in every arm."""
    return torch.optim.AdamW(groups, betas=train.betas, eps=train.epsilon, fused=device in ("cpu", "cuda"))


def rate_factors(train: TrainSpec, num_steps: int) -> Iterator[float]:
    """Factor on the learning rate at every step: warm-up from 1/n, then the schedule, never 0."""
    warmup_steps = round(train.warmup * num_steps)
    for step in range(num_steps):
        if step < warmup_steps:
            yield (step + 1) / warmup_steps
            continue
        left = (num_steps - step) / (num_steps - warmup_steps)  # 1 at the first step after warm-up, 1/n at the last
        yield {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "constant": 1.0}[train.schedule]
