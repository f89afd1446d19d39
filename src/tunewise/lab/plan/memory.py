"""Memory and FLOPs of a step, operation by operation: live bytes by purpose."""

import weakref
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers import PreTrainedModel

from tunewise.errors import ModelError
from tunewise.lab.models.load import LINEAR
from tunewise.lab.placement import Groups, gathered_in_bf16
from tunewise.lab.private import (
    FLASH_ATTENTION_ON_CPU,
    FLASH_ATTENTION_ON_CPU_BACKWARD,
    GROUPED_PRODUCT,
    TO_COPY,
    TorchDispatchMode,
    address_of,
    overloads_of,
    tree_iter,
)
from tunewise.records.plan import Gathered

Use = Literal["weights", "gradients", "optimizer", "logits", "activations"]
USES: tuple[Use, ...] = ("weights", "gradients", "optimizer", "logits", "activations")

DEVICE = torch.ops.prim.device.default


def _attention_forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(
    grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


def _grouped_product(rows: torch.Tensor, weights: torch.Tensor, *_: Any, **__: Any) -> int:
    """Every row is multiplied by the weights of one expert: (R, K) by (E, K, N), or (M, R) by (R, N) for a gradient."""
    return 2 * int(rows.numel() * weights.shape[-1])


# torch counts the FLOPs only of its CUDA attention kernels, and none of grouped products
FLOPS = {
    **flop_registry,
    FLASH_ATTENTION_ON_CPU: _attention_forward,
    FLASH_ATTENTION_ON_CPU_BACKWARD: _attention_backward,
    GROUPED_PRODUCT: _grouped_product,
}


class StepMeter(TorchDispatchMode):  # type: ignore[misc]  # torch has no types here
    """Bytes of all live tensor storages, and their peak. The same for tensors with and without storage.

    Workspace that an operation allocates and frees internally is not seen.
    """

    def __init__(self, vocabulary: int | None) -> None:
        """`vocabulary`: last dimension by which the logits of a language model are recognized."""
        super().__init__()
        self.vocabulary = vocabulary
        self.live: dict[Use, int] = dict.fromkeys(USES, 0)
        self.peak: dict[Use, int] = dict(self.live)
        self.total = self.peak_total = 0
        self.peak_data = 0  # of activations and logits together
        self.flops = 0
        self._known: dict[int, tuple[Use, int]] = {}
        self._hooks: list[Any] = []

    def hold(self, tensors: Iterable[torch.Tensor], use: Use) -> None:
        """Count tensors that exist already."""
        for tensor in tensors:
            self._add(tensor, use)

    def watch_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Count what is accumulated in `.grad` as gradients, until the meter is left."""
        self._hooks = [parameter.register_post_accumulate_grad_hook(self._is_gradient) for parameter in parameters]

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count its results."""
        if func is DEVICE:  # two of three calls for tensors without storage; nothing to count
            return args[0].fake_device
        out = func(*args, **(kwargs or {}))
        for item in tree_iter(out):
            if isinstance(item, torch.Tensor):
                self._add(item, self._use(func, args, item))
        formula = FLOPS.get(overloads_of(func))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out

    def _use(self, func: Any, args: Any, made: torch.Tensor) -> Use:
        if func is TO_COPY and self._use_of(args[0]) == "weights":
            return "weights"  # autocast keeps the bf16 copy of a trained weight as long as its gradient needs it
        is_logits = made.dim() > 1 and made.shape[-1] == self.vocabulary and made.is_floating_point()
        return "logits" if is_logits else "activations"

    def _use_of(self, tensor: torch.Tensor) -> Use | None:
        known = self._known.get(address_of(tensor.untyped_storage()))
        return known[0] if known else None

    def _add(self, tensor: torch.Tensor, use: Use) -> None:
        storage = tensor.untyped_storage()
        key = address_of(storage)
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = (use, size)
        self._change(use, size)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        use, size = self._known.pop(key)
        self._change(use, -size)

    def _change(self, use: Use, size: int) -> None:
        self.live[use] += size
        self.total += size
        self.peak_data = max(self.peak_data, self.live["activations"] + self.live["logits"])
        if self.total > self.peak_total:
            self.peak_total, self.peak = self.total, dict(self.live)

    def _is_gradient(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None, "called after a gradient is accumulated"
        key = address_of(parameter.grad.untyped_storage())
        use, size = self._known[key]
        self._known[key] = ("gradients", size)
        self.live[use] -= size
        self.live["gradients"] += size


def gathered(model: PreTrainedModel, *, is_autocast: bool, is_narrow: bool) -> Gathered | None:
    """Bytes of the model's weights if several devices divide them; None: they cannot.

    `is_narrow`: frozen linear weights take two bytes each, whatever they take here.
    """
    try:
        groups = Groups.of(model)
    except ModelError:
        return None
    linear = [module for module in model.modules() if isinstance(module, LINEAR)]
    frozen = {id(m.weight) for m in linear if is_narrow and isinstance(m.weight, torch.nn.Parameter)}
    in_bf16 = [p for layer in groups.layers if is_autocast for m in gathered_in_bf16(layer) for p in m.parameters()]
    rounded = {id(parameter) for parameter in in_bf16}

    def stored(parameter: torch.Tensor) -> int:
        is_halved = id(parameter) in frozen and not parameter.requires_grad
        return int(2 * parameter.numel() if is_halved else parameter.nbytes)

    def whole(*modules: torch.nn.Module) -> int:
        parameters = {id(p): p for module in modules for p in module.parameters()}
        return sum(2 * p.numel() if key in rounded else stored(p) for key, p in parameters.items())

    def trained(*modules: torch.nn.Module) -> int:
        return sum(p.nbytes for p in {p for module in modules for p in module.parameters()} if p.requires_grad)

    casts = [p for module in groups.head for p in module.parameters() if p.dtype == torch.float32 and is_autocast]
    return Gathered(
        stored=sum(stored(parameter) for parameter in model.parameters()),
        whole=sum(buffer.nbytes for buffer in model.buffers()),
        layer=max(whole(layer) for layer in groups.layers),
        layer_gradient=max(trained(layer) for layer in groups.layers),
        other=max((whole(module) for module in groups.others), default=0),
        other_gradient=max((trained(module) for module in groups.others), default=0),
        head=whole(*groups.head) + max((2 * parameter.numel() for parameter in casts), default=0),
        head_gradient=trained(*groups.head),
        all=sum(whole(*modules) for modules in [*([m] for m in groups.layers + groups.others), groups.head]),
        trained=trained(model),
    )
