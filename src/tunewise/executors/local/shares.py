"""The share of this machine that each of several places gets: GPUs, or some of the processor's cores."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping

from tunewise.errors import SpecError
from tunewise.spec import MachineSpec

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS = 30.0  # for nvidia-smi, which loads the driver on a machine where nothing else has
# "GPU 0: NVIDIA H200 (UUID: GPU-...)", and below it, if the GPU is divided, "  MIG 1g.18gb  Device 0: (UUID: MIG-...)"
LISTED = re.compile(r"^( *)(?:GPU|MIG) .*\(UUID: ((?:GPU|MIG)-[0-9A-Za-z/-]+)\)\s*$", re.MULTILINE)


def shared(
    machine: MachineSpec, known_threads: Callable[[], int | None] = lambda: None
) -> tuple[MachineSpec, tuple[Mapping[str, str], ...]]:
    """The settings of each run, and for each place the variables that its processes see.

    `known_threads`: of the runs that the study folder holds already, which new ones must equal. Raises SpecError if the
    machine has no room for so many places.
    """
    of_run = machine.devices_per_run
    if machine.workers == of_run == 1:
        return machine, ({},)
    if of_run > 1:
        _require_processes(machine)
    if gpus := () if machine.device in ("cpu", "mps") else visible_gpus():
        firsts = range(0, _of_gpus(machine, len(gpus)) * of_run, of_run)
        return machine, tuple({VISIBLE: ",".join(gpus[first : first + of_run])} for first in firsts)
    if machine.device == "cuda":
        raise SpecError(
            f"{_asked(machine)}, but no GPU was found, and each {_needing(machine)} needs one of its own. "
            f"Name the GPUs in {VISIBLE}, or remove {'workers' if of_run == 1 else 'devices_per_run'}."
        )
    cores = usable_cores()
    if machine.device == "mps" and machine.workers not in (1, "auto"):
        raise SpecError(f"machine.workers is {machine.workers}, but this machine has one GPU. Remove workers.")
    threads = machine.threads or known_threads()
    most = cores // (of_run * (threads or 1))
    number = (max(1, most) if threads else 1) if machine.workers == "auto" else machine.workers
    threads = threads or max(1, cores // (number * of_run))
    if of_run > 1 and number * of_run * threads > cores:
        raise SpecError(
            f"{_asked(machine)}: on the CPU each device is a process with {threads} threads, so this needs "
            f"{number * of_run * threads} cores, but tunewise may use only {cores} here. Allowed: at most "
            f"{max(1, cores // (number * threads))} devices per run, or fewer workers or threads. Both are part of a "
            "run's identity, so they stay as they are once a study has runs."
        )
    if number * threads > cores:
        raise SpecError(
            f"machine.workers is {number} and each run has {threads} threads, but tunewise may use only {cores} cores "
            f"here. Allowed: at most {max(1, cores // threads)} workers with {threads} threads each. The number of "
            "threads is part of a run's identity, so it stays as it is once a study has runs."
        )
    return machine.replace(threads=threads), ({},) * number


def _require_processes(machine: MachineSpec) -> None:
    """Raise SpecError if no two processes of this machine can make one run."""
    if machine.device == "mps" or sys.platform != "linux":
        raise SpecError(
            f"{_asked(machine)}, which needs Linux, and GPUs of NVIDIA or a CPU. Remove devices_per_run here."
        )


def _asked(machine: MachineSpec) -> str:
    if machine.devices_per_run == 1:
        return f"machine.workers is {machine.workers}"
    return f"machine.devices_per_run is {machine.devices_per_run} with workers {machine.workers}"


def _needing(machine: MachineSpec) -> str:
    return "worker" if machine.devices_per_run == 1 else "device of a run"


def _of_gpus(machine: MachineSpec, num_gpus: int) -> int:
    most = num_gpus // machine.devices_per_run
    if machine.devices_per_run > 1 and (most == 0 or (machine.workers != "auto" and machine.workers > most)):
        raise SpecError(
            f"{_asked(machine)}, but tunewise sees {num_gpus} GPU{'s' * (num_gpus != 1)}, and each device of a run is "
            f"one. Allowed: workers times devices_per_run of at most {num_gpus}. To train on the processor instead, "
            "set machine.device: cpu."
        )
    if machine.workers == "auto":
        return most
    if machine.workers > num_gpus:
        raise SpecError(
            f"machine.workers is {machine.workers}, but tunewise sees {num_gpus} GPU{'s' * (num_gpus != 1)}, and each "
            f"worker needs one of its own. Allowed: 1 to {num_gpus}, or auto. To train on the processor instead, set "
            "machine.device: cpu."
        )
    return machine.workers


def usable_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """NVIDIA GPUs, or parts of divided ones, that this process may use, as names for CUDA_VISIBLE_DEVICES."""
    if VISIBLE in os.environ:
        named = [name.strip() for name in os.environ[VISIBLE].split(",")]
        return tuple(named[: named.index("-1")] if "-1" in named else filter(None, named))
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):  # no such program: no such GPU
        return ()
    return listed_gpus(done.stdout) if done.returncode == 0 else ()


def listed_gpus(text: str) -> tuple[str, ...]:
    """The GPUs that `nvidia-smi -L` lists; of a divided GPU its parts instead."""
    found: list[str] = []
    for indent, name in LISTED.findall(text):
        if indent and found and found[-1].startswith("GPU-"):
            found.pop()
        found.append(name)
    return tuple(found)
