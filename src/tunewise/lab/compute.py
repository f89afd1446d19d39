"""Where and in which precision a model computes."""

from dataclasses import dataclass

import torch

from tunewise.spec import Device, Precision


@dataclass(frozen=True)
class Compute:
    """The device and the precision of training or of scoring.

    Whatever runs a model is handed this one object. A mesh of devices, over which a model is sharded, becomes a field
    of it, so that the loop, the loss and the scores need no further argument.
    """

    device: Device
    precision: Precision

    def autocast(self) -> torch.autocast:
        """The autocast of every forward pass; it does nothing in fp32."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")
