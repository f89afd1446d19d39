"""What a run costs: peak memory per phase, and where it runs."""

import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from tunewise.errors import SpecError
from tunewise.records import Environment, Memory
from tunewise.spec import Device

# Kinds of processor time in which it works; guest time is part of user time.
BUSY = ("user", "nice", "system", "irq", "softirq", "steal", "interrupt", "dpc")
LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy", "tunewise")


class MemoryMeter:
    """Peak memory of every phase by its name. A run has a process of its own, so nothing else is in it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.start_bytes = self._current()
        self.peaks: dict[str, int | None] = {}
        self.open: list[str] = []  # the phases that have begun and not ended, the innermost last

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens inside counts for phase `name` alone, not for a phase around it; it may come more than once."""
        self._count()
        self.open.append(name)
        self.peaks.setdefault(name, 0)
        try:
            yield
        finally:
            self._count()
            self.open.pop()

    def memory(self, name: str) -> Memory | None:
        """The largest peak of phase `name`; None if there was none."""
        if name not in self.peaks:
            return None
        peak = self.peaks[name]
        above = None if peak is None or self.start_bytes is None else peak - self.start_bytes
        return Memory(peak_bytes=peak, above_start_bytes=above)

    def join(self, peaks: Mapping[str, int | None]) -> None:
        """Take in what an earlier process of the same run had found."""
        for name, peak in peaks.items():
            own = self.peaks.get(name, 0)
            self.peaks[name] = None if peak is None or own is None else max(peak, own)

    def _count(self) -> None:
        """The peak since the last call belongs to the innermost open phase; from here on it is another's."""
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
        give_back()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to the current size
        except OSError:
            self.can_reset = False

    def _peak(self) -> int | None:
        if self.device == "cuda":
            return int(torch.cuda.max_memory_allocated())
        if not self.can_reset:
            return None  # elsewhere the system only knows the peak of the whole process
        status = Path("/proc/self/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        return int(kilobytes) * 1024


def give_back() -> None:
    """Let the system have what the C library keeps of freed memory; it would count for whatever comes next."""
    if sys.platform != "linux":
        return
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


class OthersMeter:
    """What other processes take of the machine's processors, from its making on."""

    def __init__(self) -> None:
        self.machine_seconds, self.own_seconds, self.start = self._now()

    def share(self) -> float:
        """CPU seconds of other processes over those that all cores together had, in [0, 1]."""
        machine, own, now = self._now()
        others = (machine - self.machine_seconds) - (own - self.own_seconds)
        return min(max(others / ((now - self.start) * (os.cpu_count() or 1)), 0.0), 1.0)

    def _now(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()._asdict()
        busy = sum(seconds for name, seconds in times.items() if name in BUSY)
        return busy, time.process_time(), time.perf_counter()


def pick_device() -> Device:
    """The accelerator if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def require_device(device: Device) -> None:
    """Raises SpecError where torch does not find the device here."""
    is_there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not is_there[device]:
        found = ", ".join(name for name in is_there if is_there[name])
        raise SpecError(
            f"machine.device: torch finds no {device} here, only {found}. Leave the key out, or install a torch for it."
        )


def describe_environment(device: Device) -> Environment:
    """Where this process runs."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        device=device,
        device_name=name,
        num_cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_bytes=psutil.virtual_memory().total,
        versions={library: version(library) for library in LIBRARIES},
    )


def _processor() -> str:
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
