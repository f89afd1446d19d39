"""Check that every trained tensor gets a gradient. An adapter that the data never reaches would not change."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from tunewise.errors import SpecError
from tunewise.lab.methods.base import Method
from tunewise.lab.methods.full import Full

SHOWN_NAMES = 3


@dataclass
class GradientWatch:
    """Trained tensors without a gradient so far."""

    model: torch.nn.Module
    method: Method
    without: set[str] | None = field(default=None, init=False)  # None: no step was examined

    def look(self) -> None:
        """Call after an optimizer step, while its gradients exist.

        Raises SpecError at the first step for tensors of an adapter that this data never reaches. If the same tensor of
        another layer or expert got a gradient, it may get one later: a router may not have chosen its expert.
        """
        if self.without is None:
            self.without = self._without_gradient()
            self._require_reached(self.without)
        elif self.without:
            self.without &= self._without_gradient()

    def finish(self, warn: Callable[[str], None]) -> None:
        """After the last step, `warn` of tensors that never had a gradient."""
        if self.without:
            warn(
                f"{len(self.without)} trainable tensors never got a gradient, such as {_listed(self.without)}: "
                "this data does not reach them, so they did not change."
            )

    def _learning(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _without_gradient(self) -> set[str]:
        return {name for name, p in self._learning().items() if p.grad is None}

    def _require_reached(self, without: set[str]) -> None:
        if isinstance(self.method, Full):  # it trains whatever the base has: a warning is enough
            return
        reached = {_kind(name) for name in self._learning() if name not in without}
        if lost := {name for name in without if _kind(name) not in reached}:
            raise SpecError(
                f"{len(lost)} of {len(self._learning())} trainable tensors got no gradient in the first step, "
                f"such as {_listed(lost)}: this data does not pass through them. Choose targets "
                "that it passes through, for example with a regular expression such as '(?!.*cross_attn).*_proj'."
            )


def _kind(name: str) -> str:
    """The name without its numbers (of layers and experts)."""
    return re.sub(r"\d+", "#", name)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN_NAMES])
