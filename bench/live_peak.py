"""Bytes of all tensors alive at the peak of a run's optimizer steps, counted while the run trains.

python bench/live_peak.py RUN_FOLDER DATA_FOLDER prints one number. The run's own code: counting is put around the two
halves of a step. The optimizer has its state from the first step on, as in a plan.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tunewise.lab.train.loop as loop_module
from tunewise.lab.plan import fake_step
from tunewise.lab.plan.memory import StepMeter
from tunewise.lab.run.story import Run
from tunewise.lab.train.loop import Loop
from tunewise.spec import RunSpec

Half = Callable[..., Any]


class LivePeak:
    """Around the halves of every step; `largest` is the peak of all."""

    def __init__(self) -> None:
        self.largest = 0
        self.meter: StepMeter | None = None

    def gradient(self, whole: Half) -> Half:
        """`compute_gradient`, counted."""

        def counted(model: torch.nn.Module, micro_batches: Any, num_targets: int, loop: Loop) -> Any:
            if self.meter is None:
                fake_step.begin(loop)
            self.meter = StepMeter(None)
            state = [tensor for of in loop.optimizer.state.values() for tensor in of.values()]
            self.meter.hold([*model.parameters(), *model.buffers()], "weights")
            self.meter.hold([tensor for tensor in state if isinstance(tensor, torch.Tensor)], "optimizer")
            with self.meter:
                return whole(model, micro_batches, num_targets, loop)

        return counted

    def update(self, whole: Half) -> Half:
        """`update`, counted."""

        def counted(*arguments: Any) -> None:
            assert self.meter is not None, "the gradient comes first"
            with self.meter:
                whole(*arguments)
            self.largest = max(self.largest, self.meter.peak_total)

        return counted


def main() -> None:
    """Execute the run whose spec lies in the folder."""
    folder, data_folder = map(Path, sys.argv[1:])
    spec = RunSpec.model_validate_json((folder / "spec.json").read_text(encoding="utf-8"))
    peak = LivePeak()
    loop_module.compute_gradient = peak.gradient(loop_module.compute_gradient)
    loop_module.update = peak.update(loop_module.update)
    Run(spec, folder, data_folder, lambda event: None).execute()
    print(peak.largest)


if __name__ == "__main__":
    main()
