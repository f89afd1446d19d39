"""Lease of a run: which process makes it, so that no two make one run at the same time.

The driver, which alone holds the study's lock, takes the lease with a fresh nonce, and the process that makes the run
adopts it: puts its own identity into the file, and touches the file every few seconds. A lease is taken from another
process only if that process is proven dead, or has not touched it for a long time by the clock of the one that waits,
so clocks of machines need not agree. Such a process may only have been asleep: it ends when it wakes and finds another
lease, and its record cannot be stored (storage/ledger.py, `finish`).
"""

import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunewise.errors import StudyError
from tunewise.storage.disk import delete, write_atomically
from tunewise.storage.files import reraise_as_study_error
from tunewise.storage.lock import is_gone, this_process

LEASE = "lease.json"
BEAT_SECONDS = 10.0  # between two touches
EXPIRY_SECONDS = 180.0  # without a touch; network file systems show a touch after up to a minute
PAUSE_SECONDS = 0.5
LOST_LEASE = 3  # exit status of a process whose run another process makes


class LostLeaseError(StudyError):
    """Another process makes this run now."""


class Lease:
    """A lease that this process has adopted."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle

    def require(self) -> None:
        """Raise LostLeaseError if another process makes this run now."""
        if not self.is_held():
            raise LostLeaseError(f"another process makes the run in {self.path.parent} now. This one ends.")

    def is_held(self) -> bool:
        """Whether the lease was not replaced. The open handle keeps its inode from being used again."""
        try:
            return os.path.samestat(self.path.stat(follow_symlinks=False), os.fstat(self._handle))
        except OSError:
            return False

    def touch(self) -> None:
        """Show that this process is alive."""
        with suppress(OSError):
            os.utime(self._handle)


def take(folder: Path) -> None:
    """Take the lease of the run in `folder`, for a job that this process submits.

    Waits as long as another living process makes the run.
    """
    wait_until_free(folder)
    write_atomically(folder / LEASE, json.dumps({"nonce": secrets.token_hex(8), **this_process()}))


def nonce_of(folder: Path) -> str | None:
    """Nonce of the lease in `folder`; None: there is none."""
    nonce = _holder(folder / LEASE).get("nonce")
    return nonce if isinstance(nonce, str) else None


def release(folder: Path) -> None:
    """Delete the lease. Only for the holder of the study's lock, once the job has ended."""
    delete(folder / LEASE)


def wait_until_free(folder: Path) -> bool:
    """Wait while another living process makes the run in `folder`. True if there was one."""
    path, has_waited = folder / LEASE, False
    seen, since = None, time.monotonic()
    while (touched := _touched(path)) is not None and not is_free(_holder(path)):
        if touched != seen:
            seen, since = touched, time.monotonic()
        elif time.monotonic() - since > EXPIRY_SECONDS:
            break
        has_waited = True
        time.sleep(PAUSE_SECONDS)
    return has_waited


def is_free(holder: dict[str, Any]) -> bool:
    """Whether the holder of a lease is this process or proven dead; an unreadable lease has a living holder."""
    this = this_process()
    is_own = all(holder.get(name) == this[name] for name in ("host", "process", "born"))
    return is_own or (bool(holder) and is_gone(holder))


@contextmanager
def held(folder: Path, nonce: str) -> Iterator[Lease]:
    """Adopt the lease with this nonce for the process that makes the run. Raises LostLeaseError if it is gone.

    Inside, the process ends at once when it finds that another one makes the run.
    """
    path = folder / LEASE
    with reraise_as_study_error(path):
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    lease, ended = Lease(path, handle), threading.Event()
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode) or _read(handle).get("nonce") != nonce:
            raise LostLeaseError(f"another process makes the run in {folder} now. This job is not needed any more.")
        content = json.dumps({"nonce": nonce, **this_process()}).encode()
        os.ftruncate(handle, 0)
        os.pwrite(handle, content, 0)

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                if not lease.is_held():
                    os._exit(LOST_LEASE)
                lease.touch()

        threading.Thread(target=beat, daemon=True, name="lease").start()
        yield lease
    finally:
        ended.set()
        os.close(handle)


def _touched(path: Path) -> tuple[int, int] | None:
    """Changes when the lease is touched or replaced; None: there is none."""
    with reraise_as_study_error(path, "read"):
        try:
            status = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
    return status.st_ino, status.st_mtime_ns


def _holder(path: Path) -> dict[str, Any]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        return _read(handle)
    finally:
        os.close(handle)


def _read(handle: int) -> dict[str, Any]:
    """Content of a lease; empty if it is not readable, for example while it is written."""
    try:
        content = json.loads(os.pread(handle, 65536, 0))
    except (ValueError, OSError):
        return {}
    return content if isinstance(content, dict) else {}
