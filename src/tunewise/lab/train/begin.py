"""Prepare a model for its first step: the same for a run, a plan and a probe."""

from collections.abc import Sequence

import torch

from tunewise.lab.compute import Compute
from tunewise.lab.methods import Method
from tunewise.lab.models.load import inner_model
from tunewise.lab.train.meters import return_freed_memory
from tunewise.lab.train.optim import LearningRates, make_optimizer, parameter_groups
from tunewise.lab.weights.precision import assert_masters, leave_inputs_as_they_are, store_frozen_weights
from tunewise.spec import TrainSpec


def make_trainable(
    prepared: tuple[torch.nn.Module, Method],
    heads: Sequence[str],
    train: TrainSpec,
    rates: LearningRates,
    compute: Compute,
) -> torch.optim.Optimizer:
    """Optimizer of the trained parameters; frozen weights are now stored according to the precision policy."""
    model, method = prepared
    if train.gradient_checkpointing:
        inner_model(model).gradient_checkpointing_enable({"use_reentrant": False})
    store_frozen_weights(model, compute.precision, method.fp32_modules)
    leave_inputs_as_they_are(model, compute.precision)
    return_freed_memory()  # otherwise the process keeps the fp32 weights that were just replaced
    assert_masters(model)
    compute.placement.shard(inner_model(model), is_autocast=compute.precision == "bf16")
    return make_optimizer(parameter_groups(model, heads, train, rates), train, compute.device)
