"""The jobs of one study in the queue of Slurm: submitted, looked at, and canceled by its own commands."""

import hashlib
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunewise.errors import AGAIN, MachineError, SpecError, clause
from tunewise.inputs.import_path import PYTHON
from tunewise.spec import MachineSpec, SlurmSpec

WORKER = (*PYTHON, "-m", "tunewise", "worker")
COMMAND_SECONDS = 120.0  # for one command of Slurm: a busy controller answers slowly
LOOK_SECONDS = 5.0  # between two looks at the queue, for all places together
WARNING_SECONDS = 60  # before the time limit: then a run saves and stops
STATE_FIELDS = "%i %T"
LIVING = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "STOPPED",
    "REQUEUED",
    "RESIZING",
    "SIGNALING",
)


class SlurmQueue:
    """All jobs of the study in `folder`, which have one name in the queue. Used by several threads."""

    def __init__(self, folder: Path, machine: MachineSpec) -> None:
        self.folder = folder
        self.name = f"tunewise-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]}"
        self.is_met = False  # whether a worker was greeted
        self.options = options(machine.slurm or SlurmSpec(), machine.threads)
        self._lock = threading.Lock()
        self._states: Mapping[str, str] = {}
        self._looked = -LOOK_SECONDS  # when, by time.monotonic

    def submit(self, job: Path) -> str:
        """Number of a new job in the queue, which does what the job file says. Raises MachineError if it is refused."""
        job = job.absolute()
        worker = [*WORKER, str(job), "--events", str(job.with_suffix(".events"))]
        log = str(job.with_suffix(".log")).replace("%", "%%")  # to Slurm, % begins a variable
        own = ["--parsable", f"--job-name={self.name}", f"--output={log}", f"--signal=B:TERM@{WARNING_SECONDS}"]
        said = run(["sbatch", *own, *self.options, f"--wrap=exec {shlex.join(worker)}"])
        with self._lock:
            self._looked = -LOOK_SECONDS
        return said.strip().partition(";")[0]  # NUMBER;CLUSTER

    def state(self, number: str) -> str | None:
        """State of a job by Slurm's name, at most some seconds old; None: it is no longer in the queue."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._states = self._look()
                self._looked = time.monotonic()
            return self._states.get(number)

    def cancel(self, number: str) -> None:
        """End a job at once."""
        run(["scancel", number])

    def ask_to_stop(self, number: str) -> None:
        """Let a job save and stop; one that waits is canceled."""
        run(["scancel", "--state=PENDING", number])
        run(["scancel", "--signal=TERM", "--batch", number])

    def cancel_waiting(self) -> None:
        """Cancel jobs of an earlier command that have not begun: their leases are void."""
        run(["scancel", "--state=PENDING", f"--name={self.name}"])

    def _look(self) -> Mapping[str, str]:
        said = run(["squeue", "--noheader", "--states=all", f"--name={self.name}", f"--format={STATE_FIELDS}"])
        return dict(line.split()[:2] for line in said.splitlines() if len(line.split()) >= 2)


def options(slurm: SlurmSpec, threads: int | None) -> list[str]:
    """Options of sbatch for one run."""
    given = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "time": slurm.time,
        "mem": slurm.memory,
        "gres": f"gpu:{slurm.gpus_per_run}" if slurm.gpus_per_run else None,
        "cpus-per-task": threads,
    }
    return ["--ntasks=1", *(f"--{name}={value}" for name, value in given.items() if value is not None)]


def prepared(machine: MachineSpec, known_threads: int | None) -> MachineSpec:
    """The settings of each run. Raises SpecError if the study does not say how many jobs may wait.

    `known_threads`: of the runs that the study folder holds already.
    """
    if machine.workers == "auto":
        raise SpecError(
            "machine.workers is auto, but with executor: slurm it is the number of jobs that are in the queue at the "
            "same time. Give a number, for example --workers 8."
        )
    has_gpu = machine.slurm is not None and machine.slurm.gpus_per_run > 0
    return machine.replace(threads=machine.threads or known_threads or (None if has_gpu else 1))


def run(command: Sequence[str]) -> str:
    """What a command of Slurm prints. Raises SpecError if there is no Slurm, and MachineError if it refuses."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise SpecError(
            f"machine.executor is slurm, but there is no program {command[0]} here. Give the command on a login node "
            "of the cluster."
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"Slurm does not answer: {clause(error)}. {AGAIN}") from error
    if done.returncode != 0:
        told = clause(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}")
        raise MachineError(f"Slurm refused `{command[0]}`: {told[:300]}. Check the keys of machine.slurm. {AGAIN}")
    return done.stdout
