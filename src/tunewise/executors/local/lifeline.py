"""Connection between a worker and its parent: a pipe that only the parent can write to.

A byte in the pipe asks the worker to stop; it is never read, so that every check sees it. The end of the pipe means
that the parent is gone, however it died, and nobody needs the work any more.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tunewise.records import events
from tunewise.records.events import Listener

ORPHANED, TIMED_OUT = 3, 4  # exit statuses of a worker
LONGEST_POLL = 2**30  # milliseconds: the system takes at most 31 bits
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def watch(handle: int, limit_seconds: float | None, send: Listener) -> threading.Event:
    """An event that is set once this process is asked to stop.

    From now on the process ends when the other end of `handle` closes, or after `limit_seconds`.
    """
    asked = threading.Event()
    deadline = None if limit_seconds is None else time.monotonic() + limit_seconds

    def follow() -> None:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while True:
            found = poll.poll(_milliseconds_until(deadline))
            if found and found[0][1] & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                os._exit(ORPHANED)
            if found:
                asked.set()
                send(events.Stopping())
                poll.modify(handle, 0)  # from now on only its end
            elif deadline is not None and time.monotonic() >= deadline:
                send(events.TimedOut())
                os._exit(TIMED_OUT)

    threading.Thread(target=follow, daemon=True, name="lifeline").start()
    return asked


def _milliseconds_until(deadline: float | None) -> float:
    if deadline is None:
        return LONGEST_POLL
    return min(max(0.0, deadline - time.monotonic()) * 1000 + 1, LONGEST_POLL)


@contextmanager
def stop_signals(stop: Callable[[], bool]) -> Iterator[None]:
    """Inside the block, a Ctrl-C or SIGTERM calls `stop`; if `stop` returns False, it raises KeyboardInterrupt.

    Does nothing outside the main thread, in which alone Python handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def received(number: int, frame: object) -> None:
        if not stop():
            raise KeyboardInterrupt

    before = {number: signal.signal(number, received) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
