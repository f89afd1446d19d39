"""Interface of a method for the loop, and common parts of all methods."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from tunewise.lab.methods.targets import Targets
from tunewise.lab.models.load import Base


class Method(Protocol):
    """One way to tune. It decides what is trained and how it is saved; the loop is the same for all."""

    targets: Targets | None  # the adapted modules, known after `prepare`; None: no such modules
    scale: float | None  # of a LoRA update; None: not LoRA
    fp32_modules: tuple[str, ...]  # frozen modules that mixed precision must not store in bf16

    def prepare(self, base: Base) -> torch.nn.Module:
        """The model to train, with `requires_grad` set on exactly what is trained."""
        ...

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Called after optimizer step `step` (from 0), before the gradients are cleared."""
        ...

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """State that the method keeps between steps, for a checkpoint."""
        ...

    def restore(self, model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state` returned."""
        ...

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Write what plain peft or transformers needs to load the tuned model."""
        ...


def learn_only(model: torch.nn.Module, parameters: Iterable[torch.nn.Parameter]) -> None:
    """Freeze the model except `parameters`."""
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)


class WholeModel:
    """Methods that keep the architecture and save a transformers folder."""

    targets: Targets | None = None
    scale: float | None = None
    fp32_modules: tuple[str, ...] = ()

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Do nothing."""

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Empty: there is no state."""
        return {}

    def restore(self, model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        """Do nothing: there is no state."""

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Save a standard transformers folder, fp32 safetensors."""
        model.save_pretrained(folder)
