"""Device, precision and place of a model's computations."""

from dataclasses import dataclass

import torch

from tunewise.lab.placement import Placement
from tunewise.spec import Device, Precision


@dataclass(frozen=True)
class Compute:
    """Device, precision and place of training or scoring.

    All code that runs a model receives this one object, so that loop, loss and scores need no further argument.
    """

    device: Device
    precision: Precision
    placement: Placement = Placement()

    def autocast(self) -> torch.autocast:
        """Autocast of every forward pass; does nothing in fp32."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")
