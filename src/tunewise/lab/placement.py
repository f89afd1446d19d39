"""Where the model of a run is: whole in one process, or in shards, one process for each device.

Shards are those of FSDP2 (`torch.distributed.fsdp.fully_shard`): every process keeps a part of each parameter and
gathers a layer's parameters while that layer computes. All processes must make the same collective calls in the same
order, or they wait for each other for ever. With one process nothing here does anything.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from tunewise.errors import ModelError

Item = TypeVar("Item")
# After so many seconds without the others, a process fails, and all end. The longest that they wait for each other is
# while the first one saves: 600 s are 120 GB at 200 MB/s.
HANG_SECONDS = 600.0


@dataclass(frozen=True)
class Placement:
    """The place of this process among those that make one run."""

    rank: int = 0
    world: int = 1
    mesh: DeviceMesh | None = None  # None: one process

    @classmethod
    def join(cls, device: str, rank: int, world: int, meeting: Path) -> "Placement":
        """Place of a process that meets the others through the file `meeting`, which must be new."""
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo")  # all are on this machine, and nobody else may connect
        store, limit = dist.FileStore(str(meeting), world), timedelta(seconds=HANG_SECONDS)
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
        return cls(rank, world, init_device_mesh(device, (world,)))

    @property
    def is_first(self) -> bool:
        """Whether this process writes the results."""
        return self.rank == 0

    # --- what the processes tell each other

    def dealt(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Shares of all processes, of about equal size."""
        return [items[rank :: self.world] for rank in range(self.world)]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum of the tensors of all processes, in place."""
        if self.mesh:
            dist.all_reduce(tensor)
        return tensor

    def total(self, number: int) -> int:
        """Sum of the numbers of all processes."""
        return sum(self.gathered(number))

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - it is the message
        """Whether the flag of any process is true."""
        return any(self.gathered(flag))

    def all(self, flag: bool) -> bool:  # noqa: FBT001 - it is the message
        """Whether the flags of all processes are true."""
        return all(self.gathered(flag))

    def gathered(self, plain: Item) -> list[Item]:
        """Plain data of all processes, by rank. It travels as JSON: `torch.distributed` would pickle it."""
        if not self.mesh:
            return [plain]
        content = torch.frombuffer(bytearray(json.dumps(plain).encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.world, dtype=torch.long)
        sizes[self.rank] = len(content)
        sizes = self.sum(sizes.to(self.mesh.device_type)).cpu()
        own = torch.zeros(int(sizes.max()), dtype=torch.uint8)
        own[: len(content)] = content
        own = own.to(self.mesh.device_type)
        found = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(found, own)
        return [
            json.loads(text.cpu()[:size].numpy().tobytes()) for text, size in zip(found, sizes.tolist(), strict=True)
        ]

    def merged(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows, each from the process that made it; the others have an empty one in its place."""
        if not self.mesh:
            return rows
        return [next(row for row in found if row) for found in zip(*self.gathered(rows), strict=True)]

    def draw_apart(self, seed: int) -> None:
        """From now on, give every process its own random numbers, or all would drop the same places of their rows."""
        if not self.is_first:
            torch.manual_seed(seed + (self.rank << 32))  # seeds of studies have at most 32 bits

    # --- the model

    def shard(self, model: PreTrainedModel, *, is_autocast: bool = False) -> None:
        """Keep only this process's part of every parameter; the model's layers gather them when they compute.

        Call after everything that changes parameters as a whole, and before the optimizer is made. A second call does
        nothing. `is_autocast`: it computes in bf16. Raises ModelError if the model does not mark its layers.
        """
        if not self.mesh or isinstance(model, FSDPModule):
            return
        groups = Groups.of(model)
        for layer in groups.layers:
            if is_autocast and (linear := gathered_in_bf16(layer)):
                policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
                fully_shard(linear, mesh=self.mesh, mp_policy=policy)
            fully_shard(layer, mesh=self.mesh)
        for module in groups.others:
            fully_shard(module, mesh=self.mesh)
        # The head keeps what it gathered until the backward pass has ended: it computes the logits part by part, and
        # processes have different numbers of parts.
        fully_shard(groups.head, mesh=self.mesh, reshard_after_forward=False)
        fully_shard(model, mesh=self.mesh)
        for part in _sharded(model):
            part.set_gradient_divide_factor(1.0)  # losses are divided by the targets of all processes already
            part.set_force_sum_reduction_for_comms(True)  # gloo has no other

    @contextmanager
    def first_stage(self, model: PreTrainedModel) -> Iterator[None]:
        """Inside, backward passes end at the hidden states: nothing is added up, or freed that the rest still needs."""
        if not isinstance(model, FSDPModule):
            yield
            return
        _set_last(model, False)
        try:
            yield
        finally:
            _set_last(model, True)

    def gather(self, model: torch.nn.Module, *, only_trained: bool) -> None:
        """Replace parameters by whole ones on the CPU, in the first process; elsewhere the model loses them.

        The model cannot compute afterwards. It can be saved by whoever saves models.
        """
        if not self.mesh:
            return
        _reshard(model)
        whole: dict[torch.Tensor, torch.nn.Parameter] = {}  # a tied one once, so that it is saved once
        for module in list(model.modules()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                if not isinstance(parameter, DTensor) or (only_trained and not parameter.requires_grad):
                    continue
                if parameter not in whole:
                    value = parameter.detach().full_tensor()
                    kept = value.cpu() if self.is_first else value.new_empty(0)
                    whole[parameter] = torch.nn.Parameter(kept, requires_grad=parameter.requires_grad)
                setattr(module, name, whole[parameter])


ALONE = Placement()


@dataclass(frozen=True)
class Groups:
    """Modules of a model whose parameters are gathered together, in the order in which they are divided."""

    layers: list[torch.nn.Module]  # each a group
    # Each a group, the final norm above all: the end of a backward pass frees what its group gathered, and the gradient
    # of the logits ends before the norm, which needs its weights afterwards.
    others: list[torch.nn.Module]
    head: list[torch.nn.Module]  # one group, with the embedding if the two are tied

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Groups":
        """Groups of the model. Raises ModelError if it does not mark its layers."""
        decoder, embedding, head = model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()
        layers = [module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not layers:
            raise ModelError(
                f"{type(model).__name__} does not mark its layers as transformers' own models do, so its weights "
                "cannot be divided. Remove machine.devices_per_run, or choose another model."
            )
        is_tied = head.weight is embedding.weight
        small = [child for child in decoder.children() if not any(part in layers for part in child.modules())]
        others = [child for child in small if child is not embedding and any(True for _ in child.parameters())]
        return cls(layers, others if is_tied else [*others, embedding], [embedding, head] if is_tied else [head])


def gathered_in_bf16(layer: torch.nn.Module) -> list[torch.nn.Module]:
    """Linear modules of a layer that is trained as a whole, which are gathered in the precision of their products.

    Autocast would round what was gathered in fp32 to the same numbers. But autograd would then keep its copies, so
    that every process had all layers in bf16 when the backward pass begins. Norms stay in fp32, as in autocast.
    """
    if not all(parameter.requires_grad for parameter in layer.parameters()):
        return []
    return [module for module in layer.modules() if isinstance(module, torch.nn.Linear | Conv1D)]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, gathered if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor: all of it, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def placed_like(part: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """The tensor whose part in this process is `part`, if it is sharded as `example` is; numbers stay as they are."""
    if not isinstance(example, DTensor) or part.dim() == 0:  # the number of steps is whole everywhere
        return part
    mesh, placements = example.device_mesh, example.placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=example.shape, stride=example.stride())


@torch.no_grad()
def put(model: torch.nn.Module, parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copy values, this process's part of each, into tensors of the model: pairs of tensor and value."""
    _reshard(model)
    for tensor, value in parts:
        local(tensor).copy_(value)


def _sharded(model: torch.nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _reshard(model: torch.nn.Module) -> None:
    """Release what groups still hold gathered: it hides the sharded parameters, and would outlive a change of them."""
    for module in _sharded(model):
        module.reshard()


def _set_last(model: FSDPModule, is_last: bool) -> None:  # noqa: FBT001 - private
    model.set_is_last_backward(is_last)
    model.set_requires_gradient_sync(is_last)
    model.set_reshard_after_backward(is_last)
