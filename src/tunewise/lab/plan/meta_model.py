"""Models built from their configuration only: without storage at full size, or small and real."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from tunewise.errors import ModelError
from tunewise.lab.models.library_errors import quiet_transformers, reraised
from tunewise.lab.models.load import Base
from tunewise.lab.private import tensors_of
from tunewise.spec import TASKS, Task

MakeTensor = Callable[[torch.Tensor], torch.Tensor]  # a tensor of the shape and type of the given one

# Settings of a small configuration, by the names to which transformers maps those of every family.
SMALL: dict[str, int] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,  # Falcon
    "head_dim": 16,
    # of mixtures: enough experts for the largest published groups, and a mixture within the two layers
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 16),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    "first_k_dense_replace": 1,
}


def blank_base(config: PreTrainedConfig, task: Task, num_labels: int, heads: tuple[str, ...] | None) -> Base:
    """The fp32 base on the meta device.

    `num_labels`: of a classification. `heads`: modules trained in every arm; None: all modules outside the body,
    because what a checkpoint lacks is not known.
    """
    config = type(config).from_dict(config.to_dict())
    auto = AutoModelForCausalLM
    if TASKS[task].has_classes:
        auto = AutoModelForSequenceClassification
        config.num_labels = num_labels
        config.pad_token_id = config.pad_token_id or 0
    what = f"cannot build a model of type {config.model_type} from its config.json"
    with reraised(ModelError, what), torch.device("meta"), quiet_transformers():
        model = auto.from_config(config, dtype=torch.float32)
    if heads is None:
        heads = _outside_the_body(model) if TASKS[task].has_classes else ()
    return Base(model.eval(), heads, ())


def _outside_the_body(model: PreTrainedModel) -> tuple[str, ...]:
    outside = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    return tuple(name for name in outside if any(True for _ in model.get_submodule(name).parameters()))


def small_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same architecture at a size that runs in milliseconds."""
    small = type(config).from_dict(config.to_dict())
    all_layers = small.num_hidden_layers
    sizes = dict(SMALL)
    if getattr(config, "num_key_value_heads", None) == getattr(config, "num_attention_heads", None):
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]  # latent attention computes with no other number
    for name, value in sizes.items():
        is_derived = isinstance(getattr(type(small), name, None), property)
        if getattr(small, name, None) is not None and not is_derived:
            setattr(small, name, min(value, getattr(small, name)))
    for name, value in vars(small).items():  # a kind, or a window, for every layer
        if isinstance(value, list) and len(value) == all_layers > small.num_hidden_layers:
            setattr(small, name, value[: small.num_hidden_layers])
    return small


def give_storage(model: torch.nn.Module, make: MakeTensor) -> None:
    """Replace all parameters and buffers by the results of `make`; tied ones stay tied."""
    made: dict[int, Any] = {}
    for module in model.modules():
        parameters, buffers = tensors_of(module)
        for name, parameter in parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                made[id(parameter)] = torch.nn.Parameter(make(parameter), parameter.requires_grad)
            parameters[name] = made[id(parameter)]
        for name, buffer in buffers.items():
            if buffer is None:
                continue
            buffers[name] = made_buffer = make(buffer)
            if name == "position_ids":  # stands for the positions of a padded batch
                made_buffer.copy_(torch.arange(buffer.shape[-1]))


def without_values(tensor: torch.Tensor) -> torch.Tensor:
    """An undefined tensor on the CPU; inside a FakeTensorMode it takes no memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def with_small_values(tensor: torch.Tensor) -> torch.Tensor:
    """Real, small values, with which a forward pass is finite."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return torch.empty(tensor.shape, dtype=tensor.dtype).normal_(0, 0.02)


def with_drawn_values(tensor: torch.Tensor) -> torch.Tensor:
    """Values on the CPU of the size of trained weights, created as fast as memory is written.

    A million random numbers are repeated; vectors are ones.
    """
    if not tensor.is_floating_point() or tensor.dim() < 2:
        fill = torch.ones if tensor.is_floating_point() else torch.zeros
        return fill(tensor.shape, dtype=tensor.dtype)
    made = torch.empty(tensor.shape, dtype=tensor.dtype)
    for piece in made.flatten().split(len(_drawn())):
        piece.copy_(_drawn()[: len(piece)])
    return made


@cache
def _drawn() -> torch.Tensor:
    return torch.empty(2**20).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
