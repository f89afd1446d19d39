"""Checkpoints inside a run: after any crash it resumes without a difference, bit for bit on CPU.

checkpoint/
  step-<n>-<sha256>.safetensors      trained weights, optimizer, random states and notes of the run up to step n
  selected-<n>-<sha256>.safetensors  weights of the best evaluation so far; checkpoints name theirs

A file gets its name when it is complete, and the name holds its hash. A new checkpoint replaces the last one. If
several processes make the run, each has a run folder of its own, and stores its part there. A step counts if all stored
it, and none deletes a checkpoint before all have the next.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tunewise.errors import StudyError
from tunewise.lab.placement import ALONE, Placement, local
from tunewise.lab.train.state import TrainingState
from tunewise.lab.train.tensor_file import SUFFIX, bytes_as_tensor, write_tensors
from tunewise.storage import disk
from tunewise.storage.files import is_whole
from tunewise.storage.ledger import CHECKPOINT

NAME = re.compile(rf"step-(\d+)-[0-9a-f]{{64}}{re.escape(SUFFIX)}")
NOTES = "notes"  # tensor that holds everything else, as JSON
PHASE = "save"  # of the memory meter: saving must not count as training
LEFT_FREE = 2  # times its size: a checkpoint must leave room for the weights that are saved at the end


class StoppedError(Exception):
    """The run was asked to stop; it is stored and can be resumed."""


class Checkpoints:
    """Checkpoints of one run, written when `seconds` have passed, or at once if `should_stop()` is true."""

    def __init__(
        self,
        run_folder: Path,
        seconds: float,
        should_stop: Callable[[], bool] = lambda: False,
        placement: Placement = ALONE,
    ) -> None:
        # below the checkpoints of the first process, and deleted with them
        is_first, others = placement.is_first, run_folder / CHECKPOINT / f"rank-{placement.rank}"
        self.run_folder = run_folder if is_first else disk.make_folder(others)
        self.folder, self.seconds, self.should_stop = self.run_folder / CHECKPOINT, seconds, should_stop
        self.placement = placement
        self.last_time = time.monotonic()
        self.kept: frozenset[str] = frozenset()  # the last checkpoint and the selected weights that it names

    def restore(self, state: TrainingState) -> None:
        """Restore the newest complete checkpoint, if there is one. Damaged ones are reported and skipped."""
        damaged = []
        for path in self._newest_first():
            found = self._read(path, state)
            if not self.placement.all(found is not None) or found is None:
                damaged.append(path.name)
                continue
            with state.meter.phase(PHASE):
                state.restore(*found)
            state.training.num_continued += 1
            self.kept = _names(path, state)
            break
        else:
            state.log.open(0)
        for name in damaged:
            state.training.warn(f"A damaged checkpoint was skipped ({name}), and its steps were repeated.")
        self._tidy()

    def after_step(self, state: TrainingState) -> None:
        """Write a checkpoint if one is due. Raises StoppedError, after writing one, if the run should stop."""
        is_asked, is_saved = self.placement.any(self.should_stop()), False
        if is_asked or self.placement.any(time.monotonic() - self.last_time >= self.seconds):
            with state.meter.phase(PHASE):
                is_saved = self._write(state)
        if is_asked:
            how = "saved" if is_saved else "which could not be saved: the run resumes from an earlier step"
            raise StoppedError(f"stopped after step {state.training.num_steps}, {how}")

    def select(self, state: TrainingState) -> None:
        """Store the current weights as those to score. Raises StudyError if the disk refuses."""
        training = state.training
        before = training.selected_file
        training.selected_step = training.num_steps
        with state.meter.phase(PHASE):  # on disk: a copy in memory would count as needed by full fine-tuning
            parts = {name: local(parameter) for name, parameter in state.learned.items()}
            training.selected_file = write_tensors(self.folder, f"selected-{training.num_steps}", parts).name
        if before and before not in {training.selected_file, *self.kept}:
            disk.delete(self.folder / before)

    def selected(self, name: str) -> dict[str, torch.Tensor]:
        """Weights that `select` stored under this name."""
        tensors: dict[str, torch.Tensor] = load_file(self.folder / name)
        return tensors

    def _write(self, state: TrainingState) -> bool:
        self.last_time = time.monotonic()  # also after a failure, so that it is not tried at every step
        notes = bytes_as_tensor(json.dumps(state.notes(), default=_plain).encode())
        tensors = {**state.tensors(), NOTES: notes}
        path = None
        with _warned_of(state):
            self._require_space(tensors)
            state.log.flush()
            path = write_tensors(self.folder, f"step-{state.training.num_steps}", tensors)
        if not self.placement.all(path is not None) or path is None:
            return False
        self.kept = _names(path, state)
        with _warned_of(state):
            self._tidy()
        return True

    def _require_space(self, tensors: Mapping[str, torch.Tensor]) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        free = shutil.disk_usage(self.folder.parent).free
        if free < (1 + LEFT_FREE) * size:
            raise StudyError(f"it needs {size / 2**20:,.0f} MiB, but the disk has only {free / 2**20:,.0f} MiB left.")

    def _read(self, path: Path, state: TrainingState) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Content of a checkpoint; None if it, the weights that it names, or the log are incomplete."""
        if not is_whole(path):
            return None
        tensors = load_file(path)
        notes = json.loads(tensors.pop(NOTES).numpy().tobytes())
        selected = notes["training"]["selected_file"]
        is_there = selected is None or (Path(selected).name == selected and is_whole(self.folder / selected))
        is_complete = is_there and state.log.holds(**notes["log"])
        return (tensors, notes) if is_complete else None

    def _newest_first(self) -> list[Path]:
        found = {path: NAME.fullmatch(path.name) for path in self.folder.glob("step-*")}
        steps = {path: int(matched[1]) for path, matched in found.items() if matched}
        common = set.intersection(*map(set, self.placement.gathered(list(steps.values()))))
        return sorted((path for path in steps if steps[path] in common), key=lambda path: (-steps[path], path))

    def _tidy(self) -> None:
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in self.kept and not path.is_dir():
                disk.delete(path)


def _names(checkpoint: Path, state: TrainingState) -> frozenset[str]:
    return frozenset({checkpoint.name, state.training.selected_file or ""})


@contextmanager
def _warned_of(state: TrainingState) -> Iterator[None]:
    """A failure to store becomes a warning: the run can continue, and may end without needing the checkpoint."""
    try:
        yield
    except StudyError as error:
        state.training.warn(f"A checkpoint could not be written: {error}")


def _plain(value: Any) -> Any:
    assert isinstance(value, np.ndarray), f"{type(value)} is not plain data"
    return value.tolist()
