"""Lock of a study folder: one command at a time. It is released when its last process ends, however it ends."""

import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tunewise.errors import StudyError
from tunewise.storage.disk import open_own
from tunewise.storage.files import reraise_as_study_error

LOCK = ".lock"
REPORT_LOCK = ".report-lock"
PATIENCE_SECONDS = 15.0  # for the worker of a command that died: it ends as soon as it notices
REPORT_SECONDS = 600.0  # for a report that another command writes: the largest take about a minute
PAUSE_SECONDS = 0.05


@contextmanager
def exclusive(folder: Path, patience: float = PATIENCE_SECONDS) -> Iterator[int]:
    """Hold the lock on `folder`; yields its handle, to pass to processes that must not outlive it.

    Raises StudyError, which names the holder, if another command holds the lock.
    """
    with _held(folder / LOCK, patience, waits=False) as handle:
        yield handle


@contextmanager
def reporting(folder: Path, patience: float = REPORT_SECONDS) -> Iterator[None]:
    """Hold the report lock, so that a later report is never replaced by an earlier one.

    Waits for another report to finish. Raises StudyError if that takes longer than `patience` seconds.
    """
    with _held(folder / REPORT_LOCK, patience, waits=True):
        yield


@contextmanager
def _held(path: Path, patience: float, waits: bool) -> Iterator[int]:
    with reraise_as_study_error(path):
        handle = open_own(path, os.O_RDWR)
    try:
        _take(handle, path.parent, time.monotonic() + patience, waits)
        with reraise_as_study_error(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(this_process()).encode(), 0)
        yield handle
    finally:
        os.close(handle)


def _take(handle: int, folder: Path, deadline: float, waits: bool) -> None:
    """Lock the file. If its holder is dead, or `waits` is true, wait for the last of its processes."""
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(handle)
            if not (waits or is_gone(holder)) or time.monotonic() > deadline:
                raise StudyError(
                    f"{folder} is in use: {_describe(holder)}. "
                    "Wait for it to end, stop it, or choose another folder with --out."
                ) from None
        except OSError as error:  # some network file systems have no locks
            raise StudyError(f"cannot lock {folder}: {error.strerror}. Choose a folder on another disk.") from error
        time.sleep(PAUSE_SECONDS)


def this_process() -> dict[str, Any]:
    """Identity of this process, for a file that says who holds something."""
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "born": psutil.Process().create_time(),  # another process may get the same number later
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _holder(handle: int) -> dict[str, Any]:
    """Description that the holder wrote of itself; empty if it has not written it yet."""
    try:
        holder = json.loads(os.pread(handle, 65536, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def is_gone(holder: dict[str, Any]) -> bool:
    """True if the holder is dead, or has not written its description yet. Of another machine that is not known."""
    if not holder:
        return True
    if holder.get("host") != socket.gethostname():
        return False
    try:
        born: float = psutil.Process(int(holder["process"])).create_time()
        return abs(born - float(holder["born"])) > 1
    except psutil.NoSuchProcess:
        return True
    except (KeyError, TypeError, ValueError, psutil.Error):
        return False


def _describe(holder: dict[str, Any]) -> str:
    """Description of the holder in one line, safe for a terminal."""
    text = "process {process} on {host}, since {since}: {command}".format_map(
        {name: holder.get(name, "unknown") for name in ("process", "host", "since", "command")}
    )
    return "".join(letter if letter.isprintable() else "?" for letter in text)
