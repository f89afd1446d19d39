"""Handshake with a place on another machine before its first run: it sees the study folder, and is like this machine.

A place on this machine, with this Python, needs none.
"""

import platform
import secrets
import time
from pathlib import Path

from tunewise.errors import MachineError
from tunewise.executors import ask
from tunewise.executors.base import Executor
from tunewise.records.worker import Worker, versions
from tunewise.storage.disk import delete, make_folder, write_atomically

CLOCK_SECONDS = 60.0  # by more than this the clocks of two machines must not differ


def greet(executor: Executor, folder: Path) -> Worker:
    """The worker at a place, which sees the study folder and has the driver's versions. Raises MachineError if not."""
    nonce = secrets.token_hex(16)
    probe = make_folder(folder / "jobs") / f"probe-{secrets.token_hex(8)}"
    write_atomically(probe, nonce)
    before = time.time()
    try:
        worker = ask.greet(executor, probe)
    finally:
        delete(probe)
    require_alike(worker, nonce, (before, time.time()), folder)
    return worker


def require_alike(worker: Worker, nonce: str, asked: tuple[float, float], folder: Path) -> None:
    """Raise MachineError unless the worker read `nonce`, has our versions, and a clock within the times of `asked`."""
    host = f"worker {worker.host}"
    if worker.nonce != nonce:
        raise MachineError(
            f"{host} does not see the study folder {folder}: it found no file there that was just written. Choose a "
            "folder with --out that is on a disk of all machines, under the same path."
        )
    ours = {"python": platform.python_version(), **versions()}
    theirs = {"python": worker.python, **worker.versions}
    unlike = [f"{name} {theirs.get(name, 'missing')} (here {of_ours})" for name, of_ours in ours.items()
              if theirs.get(name) != of_ours]  # fmt: skip
    if unlike:
        raise MachineError(
            f"{host} has other versions: {', '.join(unlike)}. All runs of a study need the same ones. Install them "
            "there (`pip install -c constraints.txt tunewise`), or leave this machine out."
        )
    begin, end = asked
    off = max(begin - worker.clock, worker.clock - end, 0.0)
    if off > CLOCK_SECONDS:
        raise MachineError(
            f"the clock of {host} differs from the one here by {off:,.0f} seconds. Allowed: {CLOCK_SECONDS:.0f}. "
            "Set both by NTP: records hold times, by which overlapping runs are found."
        )
