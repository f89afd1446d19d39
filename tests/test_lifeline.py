"""Laws of stopping: a worker hears that it should stop, and is gone when whoever asked for its work is."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tunewise.executors.local import server
from tunewise.executors.local.lifeline import ORPHANED, TIMED_OUT, stop_signals

WORK = """
import os, sys, time
from tunewise.executors.local.lifeline import watch

def say(word):  # one write, so that the lines of two threads never mix
    os.write(1, f"{word}\\n".encode())

limit = float(sys.argv[2]) if len(sys.argv) > 2 else None
asked = watch(int(sys.argv[1]), limit, lambda event: say(event.event))
say("working")
asked.wait(60)
say("asked")
time.sleep(60)
"""


@contextmanager
def worker(*limit: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A worker that has begun, and our end of its lifeline."""
    read, write = os.pipe()
    command = [sys.executable, "-c", WORK, str(read), *limit]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(read,)) as process:
        os.close(read)
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        yield process, write
        process.kill()


def test_a_worker_ends_when_the_one_who_asked_for_its_work_is_gone() -> None:
    with worker() as (process, write):
        os.close(write)  # as the system does for a process that was killed
        assert process.wait(30) == ORPHANED


def test_a_worker_that_is_asked_to_stop_hears_it_once_and_still_ends_with_the_other() -> None:
    with worker() as (process, write):
        os.write(write, b"s")
        assert process.stdout is not None
        assert {process.stdout.readline(), process.stdout.readline()} == {"stopping\n", "asked\n"}
        assert process.poll() is None
        os.close(write)
        assert process.wait(30) == ORPHANED
        assert process.stdout.read() == ""


def test_a_worker_slower_than_its_limit_says_so_and_ends() -> None:
    with worker("0.05") as (process, write):
        assert process.wait(30) == TIMED_OUT
        assert process.stdout is not None
        assert process.stdout.read() == "timeout\n"
        os.close(write)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    answers = iter([True, False])
    before = signal.getsignal(number)
    with stop_signals(lambda: next(answers)):
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_no_signal_is_touched() -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with stop_signals(lambda: True):
                pass
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed


@pytest.mark.parametrize("job", ["prepare", "plan", "probe"])
def test_every_job_ends_with_the_one_who_asked_for_it(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run needs its folder before it can be asked; tests/e2e/test_stopping.py kills what asked for one."""

    class WatchedError(Exception):
        pass

    def watch(*given: object) -> None:
        raise WatchedError

    monkeypatch.setattr(server, "watch", watch)
    with pytest.raises(WatchedError):
        server.JOBS[job]({})
