"""The training loop: a generator that yields a Step per optimizer step, the same for every arm."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batch
from tunewise.lab.placement import whole
from tunewise.lab.train.dropout import quick_dropout
from tunewise.lab.train.loss import add_gradient
from tunewise.lab.train.memory import is_out_of_memory, release_memory


class DivergedError(Exception):
    """The loss or the gradient is not finite; raised before the update that would have used it."""


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    step: int  # from 1
    loss: float  # nats per target of the step, before the update
    learning_rate: float
    gradient_norm: float  # before clipping
    num_targets: int
    num_tokens: int
    seconds: float


@dataclass(frozen=True)
class Loop:
    """Inputs of the loop besides the model and the batches."""

    optimizer: torch.optim.Optimizer
    rate_factors: Iterable[float]
    clip_norm: float
    compute: Compute
    after_step: Callable[[torch.nn.Module, int], None]
    first_step: int = 0  # first of `steps`: an earlier process did those before it
    # the same rows in smaller micro-batches, used if memory runs out; None: they cannot be smaller
    recut: Callable[[Sequence[Batch]], list[Batch] | None] = lambda batches: None


@dataclass(frozen=True)
class Gradient:
    """Gradient of one optimizer step, as tensors that nobody has read yet."""

    loss: torch.Tensor  # nats per target of the step
    norm: torch.Tensor  # before clipping


def train(model: torch.nn.Module, steps: Iterable[list[Batch]], loop: Loop) -> Iterator[Step]:
    """Train on `steps`, each a list of micro-batches; yields after every optimizer step.

    The gradient is that of the mean over all targets of the step, however the step is split. Raises DivergedError
    before an update with a loss or gradient that is not finite. A micro-batch without targets adds 0; a step without
    any is a mistake of the caller.
    """
    first_rates = [group["lr"] for group in loop.optimizer.param_groups]
    factors = islice(loop.rate_factors, loop.first_step, None)
    for index, (micro_batches, factor) in enumerate(zip(steps, factors, strict=False), start=loop.first_step):
        start = time.perf_counter()
        for group, rate in zip(loop.optimizer.param_groups, first_rates, strict=True):
            group["lr"] = rate * factor
        num_targets = loop.compute.placement.total(sum(batch.num_targets for batch in micro_batches))
        assert num_targets, f"step {index + 1} has nothing to train on: none of its examples has a supervised token"
        gradient = gradient_in_memory(model, micro_batches, num_targets, loop)
        loss, norm = float(gradient.loss), float(gradient.norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(f"step {index + 1}: loss {loss}, gradient norm {norm}")
        update(model, index, loop)
        yield Step(
            step=index + 1,
            loss=loss,
            learning_rate=first_rates[0] * factor,
            gradient_norm=norm,
            num_targets=num_targets,
            num_tokens=loop.compute.placement.total(sum(batch.num_tokens for batch in micro_batches)),
            seconds=time.perf_counter() - start,
        )


def gradient_in_memory(
    model: torch.nn.Module, micro_batches: Sequence[Batch], num_targets: int, loop: Loop
) -> Gradient:
    """As `compute_gradient`; while memory is short, again in smaller micro-batches, which do not change the sum.

    Raises torch's error if they cannot be smaller.
    """
    while True:
        try:
            return compute_gradient(model, micro_batches, num_targets, loop)
        except Exception as error:
            smaller = loop.recut(micro_batches) if is_out_of_memory(error) else None
            if smaller is None:
                raise
        # outside the handler: the error keeps everything that was in memory when it was raised
        micro_batches = smaller
        loop.optimizer.zero_grad(set_to_none=True)
        release_memory()


# The two halves of a step. Between them the loop reads numbers. They themselves read nothing back from the device, so
# that a plan can run them on tensors without storage.


def compute_gradient(model: torch.nn.Module, micro_batches: Sequence[Batch], num_targets: int, loop: Loop) -> Gradient:
    """Leave the step's clipped gradient in the parameters: that of the mean over all `num_targets` targets."""
    model.train()
    device = loop.compute.device
    loss = torch.zeros((), device=device)
    with quick_dropout():
        for batch in micro_batches:
            loss += add_gradient(model, batch.to(device), num_targets, loop.compute)
    parameters = [p for group in loop.optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, loop.clip_norm)
    return Gradient(loop.compute.placement.sum(loss), whole(norm))


def update(model: torch.nn.Module, index: int, loop: Loop) -> None:
    """Apply the gradient, then clear it."""
    loop.optimizer.step()
    loop.after_step(model, index)
    loop.optimizer.zero_grad(set_to_none=True)
