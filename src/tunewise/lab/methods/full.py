"""Methods that train weights of the base itself: all of them, or only the classification head."""

import torch

from tunewise.errors import SpecError
from tunewise.lab.methods.base import WholeModel, learn_only
from tunewise.lab.methods.targets import resolve_targets
from tunewise.lab.methods.towers import freeze_towers
from tunewise.lab.models.load import LINEAR, Base
from tunewise.spec import FullMethod


class Full(WholeModel):
    """Full fine-tuning."""

    def __init__(self, spec: FullMethod) -> None:
        self.spec = spec

    def prepare(self, base: Base) -> torch.nn.Module:
        """The base with everything trained that text passes through; the rest stays in fp32, as it is saved.

        Raises SpecError if an adapter is to be extracted from missing targets.
        """
        for targets in self.spec.extract:
            resolve_targets(base, targets)
        base.model.requires_grad_(True)
        self.fp32_modules = freeze_towers(base)
        return base.model


class Head(WholeModel):
    """Trains only modules that are new, or that give the labels."""

    def prepare(self, base: Base) -> torch.nn.Module:
        """The base with a frozen body, which stays in fp32 because it is saved with the head.

        Raises SpecError if there is no head.
        """
        if not base.head_modules:
            raise SpecError("method 'head' needs a classification head: use it with data of text and label.")
        self.fp32_modules = tuple(name for name, module in base.model.named_modules() if isinstance(module, LINEAR))
        learn_only(base.model, (p for name in base.head_modules for p in base.model.get_submodule(name).parameters()))
        return base.model
