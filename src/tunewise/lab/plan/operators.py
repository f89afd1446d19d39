"""Operations of a step, to check a plan against the real step."""

from typing import Any

import torch

from tunewise.lab.private import NORM_OF_ALL, SCALE_ALL, TorchDispatchMode, tree_iter

aten = torch.ops.aten
# Used by clipping: torch treats all gradients at once, but those without storage one by one.
ALL_AT_ONCE = {NORM_OF_ALL: "norm", SCALE_ALL: "scale"}
ONE_BY_ONE = {aten.linalg_vector_norm.default: "norm", aten.mul_.Tensor: "scale"}


class Operators(TorchDispatchMode):  # type: ignore[misc]  # torch has no types here
    """Operations on floating-point numbers, one text each: name, shapes and types of inputs and outputs.

    Others are left out. For masks and positions transformers looks at values, which a step without storage lacks. If
    that changed the computation, the operations listed here would differ.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run every operation and record it."""
        out = func(*args, **(kwargs or {}))
        if func in ALL_AT_ONCE:
            self.seen += [_line(ALL_AT_ONCE[func], tensor, tensor) for tensor in args[0]]
        elif func in ONE_BY_ONE:
            self.seen.append(_line(ONE_BY_ONE[func], args[0], args[0]))
        elif any(tensor.is_floating_point() for tensor in _tensors(out)):
            self.seen.append(_line(str(func), (args, kwargs), out))
        return out


def _line(name: str, given: Any, made: Any) -> str:
    sides = (" ".join(f"{_dtype(tensor)}{list(tensor.shape)}" for tensor in _tensors(side)) for side in (given, made))
    return f"{name}: {' -> '.join(sides)}"


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [item for item in tree_iter(tree) if isinstance(item, torch.Tensor)]


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
