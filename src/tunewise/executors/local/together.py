"""Processes that do one job together, on this machine: they begin together, and when one fails, all end."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunewise.storage.disk import temporary_name

ENDED = signal.SIGUSR2  # ends a process because another one failed; SIGHUP is ignored below `nohup`


@dataclass(frozen=True)
class Part:
    """The part of one process in a job."""

    rank: int = 0
    meeting: str = ""  # name of the file in which the processes find each other
    voice: int = -1  # pipe with one byte, which whoever reports a failure takes out; -1: the process is alone

    def may_report(self) -> bool:
        """True for the first process that fails. The others fail because they lost it, and would hide its reason."""
        if self.voice < 0:
            return True
        with suppress(BlockingIOError):
            return len(os.read(self.voice, 1)) == 1
        return False


def together(number: int, work: Callable[[Part], int]) -> int:
    """Exit status of `number` forks of this process, of which each does its part. Raises OSError if one cannot start.

    0 if all succeed; else that of one that was not ended because of another, first of one that was killed.
    """
    voice, fill = os.pipe()
    os.set_blocking(voice, False)
    os.write(fill, b"1")
    os.close(fill)
    name = temporary_name(Path("meeting")).name
    children: list[int] = []
    try:
        for rank in range(number):
            child = os.fork()
            if child == 0:
                os._exit(work(Part(rank, name, voice) if number > 1 else Part()))
            children.append(child)
    except OSError:
        _wait(children, signal.SIGKILL)
        raise
    finally:
        os.close(voice)
    return min((code for code in _wait(children) if code not in (0, -ENDED)), default=0)


def _wait(children: list[int], send: signal.Signals | None = None) -> list[int]:
    """Exit statuses of these processes, in the order in which they end; the rest is ended when one has failed."""
    codes: list[int] = []
    left = set(children)
    while left:
        if send:
            for child in left:
                os.kill(child, send)
        child, status = os.waitpid(-1, 0)
        left.discard(child)
        codes.append(os.waitstatus_to_exitcode(status))
        send = ENDED if any(codes) else None
    return codes
