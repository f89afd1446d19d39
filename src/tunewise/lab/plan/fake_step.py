"""One optimizer step, and the scoring of one batch, without running them.

The training code runs on tensors without storage (torch's FakeTensorMode), on a fake CPU even for a GPU.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batch
from tunewise.lab.plan.memory import StepMeter
from tunewise.lab.private import FakeTensorMode, grouped_products_in_fp32, one_text_a_row, replaced
from tunewise.lab.train import cross_entropy
from tunewise.lab.train.loop import Loop, compute_gradient, update
from tunewise.lab.train.loss import example_losses
from tunewise.spec import Device, Precision


@contextmanager
def no_storage(device: Device) -> Iterator[FakeTensorMode]:
    """Inside the block, new tensors have shapes but no memory. `device`: the one that is planned for."""
    at_once = cross_entropy.CACHED_LOGITS if device == "cpu" else sys.maxsize
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        one_text_a_row(),
        grouped_products_in_fp32(),
        replaced(cross_entropy, "CACHED_LOGITS", at_once),
    ):
        yield mode


def begin(loop: Loop) -> None:
    """Give the optimizer its state, as after a first step."""
    for parameter in learning(loop):
        parameter.grad = torch.zeros_like(parameter)
    loop.optimizer.step()
    loop.optimizer.zero_grad(set_to_none=True)


def learning(loop: Loop) -> list[torch.nn.Parameter]:
    """Tensors that the optimizer changes."""
    return [parameter for group in loop.optimizer.param_groups for parameter in group["params"]]


def stays(model: torch.nn.Module, loop: Loop) -> int:
    """Bytes of weights and optimizer state, once the loop has begun."""
    meter = StepMeter(None)
    _hold(model, loop, meter)
    return meter.total


def _hold(model: torch.nn.Module, loop: Loop, meter: StepMeter) -> None:
    state = [tensor for of in loop.optimizer.state.values() for tensor in of.values()]
    meter.hold([*model.parameters(), *model.buffers()], "weights")
    meter.hold([tensor for tensor in state if isinstance(tensor, torch.Tensor)], "optimizer")


def meter_step(
    model: torch.nn.Module, micro_batches: Sequence[Batch], loop: Loop, meter: StepMeter, after_others: bool = False
) -> None:
    """One metered optimizer step, once the loop has begun. `after_others`: earlier micro-batches left a gradient."""
    _hold(model, loop, meter)
    if after_others:
        for parameter in learning(loop):
            parameter.grad = torch.zeros_like(parameter)
            meter.hold([parameter.grad], "gradients")
    meter.watch_gradients(learning(loop))
    with meter:
        step(model, micro_batches, loop)


def step(model: torch.nn.Module, micro_batches: Sequence[Batch], loop: Loop) -> None:
    """One optimizer step, as in the loop."""
    compute_gradient(model, micro_batches, sum(batch.num_targets for batch in micro_batches), loop)
    update(model, 1, loop)


@torch.no_grad()
def meter_score(model: torch.nn.Module, batch: Batch, precision: Precision, meter: StepMeter) -> None:
    """Metered scoring of one batch."""
    model.eval()
    meter.hold([*model.parameters(), *model.buffers()], "weights")
    with meter, Compute("cpu", precision).autocast():
        example_losses(model, batch)


def bare(batch: Batch, mode: FakeTensorMode) -> Batch:
    """The batch without its values."""
    return replace(batch, **{k: mode.from_tensor(v) for k, v in vars(batch).items() if isinstance(v, torch.Tensor)})
