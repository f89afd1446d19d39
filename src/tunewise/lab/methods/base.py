"""What a method is to the loop, and what every method does alike."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from tunewise.lab.methods.targets import Targets
from tunewise.lab.models.load import Base


class Method(Protocol):
    """One way to tune. It decides what learns and how it is saved; the loop is the same for all."""

    targets: Targets | None  # the adapted modules, known after `prepare`; None: the method has no such modules
    scale: float | None  # of a LoRA update; None: not LoRA
    fp32_modules: tuple[str, ...]  # frozen ones of the prepared model that mixed precision must not round

    def prepare(self, base: Base) -> torch.nn.Module:
        """The model to train, `requires_grad` set on exactly what learns."""
        ...

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Called after optimizer step `step` (from 0), before the gradients are cleared."""
        ...

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """What the method itself remembers from step to step, for a checkpoint."""
        ...

    def restore(self, model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        """Remember what `state` said."""
        ...

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Write what plain peft or transformers needs to load the tuned model."""
        ...


def learn_only(model: torch.nn.Module, parameters: Iterable[torch.nn.Parameter]) -> None:
    """Freeze the model, `parameters` apart."""
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)


class WholeModel:
    """Methods that leave the architecture as it is and save a transformers folder."""

    targets: Targets | None = None
    scale: float | None = None
    fp32_modules: tuple[str, ...] = ()

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Nothing to do."""

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def restore(self, model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        """Nothing to remember."""

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """A standard transformers folder, fp32 safetensors."""
        model.save_pretrained(folder)
