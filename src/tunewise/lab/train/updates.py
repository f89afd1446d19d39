"""Check that updates survive storage: bf16 keeps 8 bits, so a small step may be rounded away.

For N(0, 0.02) weights in bf16, an AdamW step of 1e-5 changes about one in seven. Whether that happens in an arm is
recorded, not assumed, because it would look like a difference between methods.
"""

import math
import statistics
from dataclasses import dataclass, field

import torch

from tunewise.lab.placement import local

WATCHED_STEPS = range(2, 21)  # step 1 has the smallest warm-up rate; after step 20 nothing new is learned
MAX_SAMPLED = 1024  # weights per tensor, evenly spaced


@dataclass
class UpdateWatch:
    """Share of updated weights whose stored value changed, by step, on a fixed sample of every trained tensor."""

    optimizer: torch.optim.Optimizer
    shares: list[float] = field(default_factory=list)
    _before: list[torch.Tensor] = field(default_factory=list)

    def compare(self, step: int) -> None:
        """Call after optimizer step `step` (from 1), before anything else changes the weights."""
        if step not in WATCHED_STEPS or not self._before:
            return
        moved = changed = 0
        for parameter, before in zip(self._learning(), self._before, strict=True):
            momentum = self.optimizer.state[parameter].get("exp_avg")
            if momentum is None:  # it had no gradient
                continue
            # AdamW's step, except decay, is a multiple of its first moment
            is_moved = _sample(momentum) != 0
            # a sampled weight represents all up to the next one, or small tensors would count as much as large ones
            moved += int(is_moved.sum()) * _stride(parameter)
            changed += int(((_sample(parameter) != before) & is_moved).sum()) * _stride(parameter)
        if moved:
            self.shares.append(changed / moved)

    def remember(self, step: int) -> None:
        """Call at the end of step `step`; the next one is compared with the weights stored now."""
        self._before = [_sample(p).clone() for p in self._learning()] if step + 1 in WATCHED_STEPS else []

    def median(self) -> float | None:
        """Median over the watched steps; None if there was none, or nothing moved."""
        return statistics.median(self.shares) if self.shares else None

    def _learning(self) -> list[torch.Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """At most MAX_SAMPLED values, at the same places every time; of a sharded tensor, from this process's part."""
    return local(tensor.detach()).flatten()[:: _stride(tensor)]


def _stride(tensor: torch.Tensor) -> int:
    size: int = local(tensor).numel()
    return max(1, math.ceil(size / MAX_SAMPLED))
