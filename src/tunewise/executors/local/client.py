"""The other end of the server: hand it jobs, pass on what they report."""

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter, ValidationError

from tunewise.errors import AGAIN, MachineError, TunewiseError, refusal
from tunewise.executors.base import Job, RunJob
from tunewise.executors.local.lifeline import stop_signals
from tunewise.inputs.import_path import PYTHON, safe_environment
from tunewise.records import events
from tunewise.records.events import Event

SERVER = ("-m", "tunewise.executors.local.server")
GRACE_SECONDS = 9.0  # for a run that was asked to stop: it stops within 10 s, at the end of a step or at once
KEPT_LINES = 200  # of what the server prints, its libraries' warnings among it: told only where it fails
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class LocalExecutor:
    """A started server on this machine. One job at a time, so that timed runs never share the machine.

    Inside `with`, a Ctrl-C or SIGTERM lets the run that is going on save and stop, then raises KeyboardInterrupt; a
    second one ends it where it is. `held` are handles that stay open as long as any process of the server lives.
    """

    def __init__(self, held: Sequence[int] = ()) -> None:
        self.is_stopping = False
        self._job: Job | None = None  # that is going on
        self._timer: threading.Timer | None = None
        self._signals = ExitStack()
        self._printed: deque[str] = deque(maxlen=KEPT_LINES)
        try:
            self.process, self._lifeline = _start(held)
            self._follower = threading.Thread(target=self._follow, daemon=True, name="lab server")
            self._follower.start()
        except (OSError, RuntimeError) as error:
            if message := refusal(error):
                raise MachineError(message) from error
            raise

    def _follow(self) -> None:
        """Keep what the server prints. Where it dies alone, end its run: nobody would hear what becomes of it."""
        assert self.process.stderr is not None
        self._printed.extend(self.process.stderr)
        if self.process.wait() != 0:
            self._kill()

    def __enter__(self) -> Self:
        self._signals.enter_context(stop_signals(self.stop))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._kill()
        if self._timer:
            self._timer.cancel()
        assert self.process.stdin is not None
        try:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()
        finally:  # also where one more Ctrl-C comes
            os.close(self._lifeline)
            self._signals.close()

    def stop(self) -> bool:
        """Ask the run that is going on to save and stop; False where none is, or it was asked before."""
        if self.is_stopping or not isinstance(self._job, RunJob):
            return False
        self.is_stopping = True
        os.write(self._lifeline, b"s")
        self._timer = threading.Timer(GRACE_SECONDS, self._kill)
        self._timer.daemon = True
        self._timer.start()
        return True

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # it may be what failed
            os.killpg(self.process.pid, signal.SIGKILL)

    def submit(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """What the jobs report, one after another, each to its `end`. Raises KeyboardInterrupt after a `stop`."""
        for job in jobs:
            yield from self._do(job)
            if self.is_stopping:
                raise KeyboardInterrupt

    def _do(self, job: Job) -> Iterator[Event]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self._job is None, "the job before this one was read to its end"
        self._job = job
        with suppress(BrokenPipeError):  # how the server ended is told below
            self.process.stdin.write(job.model_dump_json() + "\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            match event := _event(line):
                case None | events.Ready():  # of the server, not of the job
                    continue
                case events.End():
                    self._job = None
                    yield event
                    return
                case _:
                    yield event
        if self.is_stopping:  # it took too long
            raise KeyboardInterrupt
        raise self._end_of_server()

    def _end_of_server(self) -> TunewiseError:
        """Why the server is gone, in one message."""
        code = self.process.wait()
        self._follower.join(GRACE_SECONDS)
        if code < 0:
            name = signal.Signals(-code).name
            return MachineError(f"the process that runs the jobs was ended from outside ({name}). {AGAIN}")
        last = next((line.strip() for line in reversed(self._printed) if line.strip()), "it said nothing")
        if message := refusal(RuntimeError(last)):
            return MachineError(message)
        return TunewiseError(f"the process that runs the jobs ended (exit status {code}): {last}")


def _start(held: Sequence[int]) -> tuple["subprocess.Popen[str]", int]:
    """A server, and our end of its lifeline. Raises OSError where the system does not allow one more process."""
    read, lifeline = os.pipe()
    environment = {
        "OPENBLAS_NUM_THREADS": "1",  # numpy's threads would wait on the cores that torch's need
        **safe_environment(os.environ),
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for CUDA must not initialise it
        "PYTHONHASHSEED": "0",  # peft writes its sets of names in an order that would be another in every process
    }
    try:
        process = subprocess.Popen(
            [*PYTHON, *SERVER, str(read)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C reaches us alone; we end the server
            pass_fds=(read, *held),
        )
    finally:
        os.close(read)
    return process, lifeline


def _event(line: str) -> Event | None:
    """One event; None: the process that wrote it died within the line."""
    try:
        return EVENT.validate_json(line)
    except ValidationError:
        return None
