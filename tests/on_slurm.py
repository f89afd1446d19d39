"""A queue of Slurm for tests."""

import os
from pathlib import Path

import pytest

from tunewise.executors.slurm import queue


def fake_slurm(patch: pytest.MonkeyPatch, folder: Path) -> Path:
    """From now on `sbatch`, `squeue` and `scancel` are those of tests/fake_slurm. Returns where their queue is."""
    place = folder / "slurm-queue"
    place.mkdir()
    patch.setenv("FAKE_SLURM", str(place))
    patch.setenv("PATH", str(Path(__file__).parent / "fake_slurm"), prepend=os.pathsep)
    patch.setattr(queue, "LOOK_SECONDS", 0.2)
    return place
