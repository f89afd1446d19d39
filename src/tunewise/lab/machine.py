"""The machine of a run: its device, its libraries and its load."""

import hashlib
import os
import platform
import socket
import sys
import time
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from tunewise.errors import SpecError
from tunewise.lab.placement import Placement
from tunewise.records import Environment
from tunewise.records.worker import LIBRARIES, Worker, versions
from tunewise.spec import Device

# Kinds of processor time in which it is busy; guest time is part of user time.
BUSY = ("user", "nice", "system", "irq", "softirq", "steal", "interrupt", "dpc")


class OthersMeter:
    """CPU time of other processes since this object was created."""

    def __init__(self) -> None:
        self.machine_seconds, self.own_seconds, self.start = self._now()

    def share(self, placement: Placement) -> float:
        """CPU seconds of processes that do not make this run divided by those of all cores, in [0, 1]."""
        machine, own, now = self._now()
        others = (machine - self.machine_seconds) - sum(placement.gathered(own - self.own_seconds))
        return min(max(others / ((now - self.start) * (os.cpu_count() or 1)), 0.0), 1.0)

    def _now(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()._asdict()
        busy = sum(seconds for name, seconds in times.items() if name in BUSY)
        return busy, time.process_time(), time.perf_counter()


def pick_device() -> Device:
    """The accelerator, if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def require_device(device: Device) -> None:
    """Raise SpecError if torch does not find the device here."""
    is_there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not is_there[device]:
        found = ", ".join(name for name in is_there if is_there[name])
        raise SpecError(
            f"machine.device: torch finds no {device} here, only {found}. Remove the key, or "
            "install a torch build for it."
        )


def describe_environment(device: Device) -> Environment:
    """Machine and versions of this process."""
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
        machine=_digits(socket.gethostname()),
        gpu=_digits(_gpu()) if device == "cuda" else None,
    )


def _digits(name: str) -> str:
    """A name that tells machines apart and names none: records may be published."""
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _gpu() -> str:
    """Identity of the GPU of this process; without one, the part of the machine that the process may see."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return str(getattr(properties, "uuid", None) or os.environ.get("CUDA_VISIBLE_DEVICES", ""))


def describe_worker(nonce: str) -> Worker:
    """This process and its machine; `nonce` is what it read in the study folder."""
    return Worker(
        host=socket.gethostname(),
        process=os.getpid(),
        python=platform.python_version(),
        versions=versions(),
        num_gpus=torch.cuda.device_count(),
        clock=time.time(),
        nonce=nonce,
    )


def _processor() -> str:
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
