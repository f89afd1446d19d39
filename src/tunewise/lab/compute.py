"""Device and precision of a model's computations."""

from dataclasses import dataclass

import torch

from tunewise.spec import Device, Precision


@dataclass(frozen=True)
class Compute:
    """Device and precision of training or scoring.

    All code that runs a model receives this one object. A mesh of devices for sharded models would become one of its
    fields, so that loop, loss and scores need no further argument.
    """

    device: Device
    precision: Precision

    def autocast(self) -> torch.autocast:
        """Autocast of every forward pass; does nothing in fp32."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")
