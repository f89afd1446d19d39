"""Cost of a run: peak memory per phase."""

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch

from tunewise.records import Memory
from tunewise.spec import Device


class MemoryMeter:
    """Peak memory of every phase by name. A run has its own process, so nothing else is counted."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.start_bytes = self._current()
        self.peaks: dict[str, int | None] = {}
        self.can_reset = True
        self.open: list[str] = []  # phases that have begun but not ended, the innermost last

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block only for phase `name`, not for an enclosing phase; a phase may occur several times."""
        self._count()
        self.open.append(name)
        self.peaks.setdefault(name, 0)
        try:
            yield
        finally:
            self._count()
            self.open.pop()

    def memory(self, name: str) -> Memory | None:
        """Largest peak of phase `name`; None if there was none."""
        if name not in self.peaks:
            return None
        peak = self.peaks[name]
        above = None if peak is None or self.start_bytes is None else peak - self.start_bytes
        return Memory(peak_bytes=peak, above_start_bytes=above)

    def join(self, peaks: Mapping[str, int | None]) -> None:
        """Add measurements of an earlier process of the same run."""
        for name, peak in peaks.items():
            own = self.peaks.get(name, 0)
            self.peaks[name] = None if peak is None or own is None else max(peak, own)

    def _count(self) -> None:
        """Count the peak since the last call for the innermost open phase, and start a new one."""
        if self.open:
            peak, before = self._peak(), self.peaks[self.open[-1]]
            self.peaks[self.open[-1]] = None if peak is None or before is None else max(peak, before)
        self._reset()

    def _current(self) -> int | None:
        if self.device == "cuda":
            return int(torch.cuda.memory_allocated())
        return int(psutil.Process().memory_info().rss)

    def _reset(self) -> None:
        self.can_reset = True
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        return_freed_memory()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to the current size
        except OSError:
            self.can_reset = False

    def _peak(self) -> int | None:
        if self.device == "cuda":
            return int(torch.cuda.max_memory_allocated())
        if not self.can_reset:
            return None  # elsewhere the system only reports the peak of the whole process
        status = Path("/proc/self/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        return int(kilobytes) * 1024


def return_freed_memory() -> None:
    """Return memory that the C library keeps after it was freed; it would count for whatever comes next."""
    if sys.platform != "linux":
        return
    with suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)
