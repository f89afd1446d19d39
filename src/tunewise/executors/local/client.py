"""Client of the server: sends jobs, passes on their events."""

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter, ValidationError

from tunewise.errors import AGAIN, MachineError, TunewiseError, refusal
from tunewise.executors.base import Job, LostPlaceError, RunJob
from tunewise.executors.local.lifeline import stop_signals
from tunewise.inputs.import_path import PYTHON, safe_environment
from tunewise.records import events
from tunewise.records.events import Event

SERVER = ("-m", "tunewise.executors.local.server")
GRACE_SECONDS = 9.0  # for a run that was asked to stop: it must stop within 10 s, at the end of a step or at once
KEPT_LINES = 200  # of the server's output, including library warnings; shown only if it fails
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class LocalExecutor:
    """A running server on this machine, which does one job at a time.

    Inside `with`, a Ctrl-C or SIGTERM lets the current run save and stop, then raises KeyboardInterrupt; a second one
    ends it immediately. `held` are handles that stay open as long as any process of the server lives. `environment`:
    variables that its processes see, besides those of this process.
    """

    def __init__(self, held: Sequence[int] = (), environment: Mapping[str, str] | None = None) -> None:
        self.is_stopping = False
        self._job: Job | None = None  # the current job
        self._timer: threading.Timer | None = None
        self._signals = ExitStack()
        self._printed: deque[str] = deque(maxlen=KEPT_LINES)
        try:
            self.process, self._lifeline = _start(held, environment or {})
            self._follower = threading.Thread(target=self._follow, daemon=True, name="lab server")
            self._follower.start()
        except (OSError, RuntimeError) as error:
            if message := refusal(error):
                raise MachineError(message) from error
            raise

    def _follow(self) -> None:
        """Keep the server's output. If the server dies, end its run: nobody would receive its result."""
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
        finally:  # also after another Ctrl-C
            os.close(self._lifeline)
            self._signals.close()

    def stop(self) -> bool:
        """Ask the current run to save and stop; False if there is none, or it was asked before."""
        if self.is_stopping or not isinstance(self._job, RunJob):
            return False
        self.is_stopping = True
        os.write(self._lifeline, b"s")
        self._timer = threading.Timer(GRACE_SECONDS, self._kill)
        self._timer.daemon = True
        self._timer.start()
        return True

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # it may have ended already
            os.killpg(self.process.pid, signal.SIGKILL)

    def submit(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Events of the jobs, one job after another, each up to its `End`. Raises KeyboardInterrupt after a `stop`."""
        for job in jobs:
            yield from self._do(job)
            if self.is_stopping:
                raise KeyboardInterrupt

    def _do(self, job: Job) -> Iterator[Event]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self._job is None, "the events of the previous job were read to the end"
        self._job = job
        with suppress(BrokenPipeError):  # the end of the server is reported below
            self.process.stdin.write(job.model_dump_json() + "\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            match event := _event(line):
                case None | events.Ready():  # from the server, not from the job
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
        """Why the server ended, in one message."""
        code = self.process.wait()
        self._follower.join(GRACE_SECONDS)
        if code < 0:
            name = signal.Signals(-code).name
            return LostPlaceError(f"the process that runs the jobs was killed from outside ({name}). {AGAIN}")
        last = next((line.strip() for line in reversed(self._printed) if line.strip()), "it printed nothing")
        if message := refusal(RuntimeError(last)):
            return MachineError(message)
        return TunewiseError(f"the process that runs the jobs ended (exit status {code}): {last}")


def _start(held: Sequence[int], more: Mapping[str, str]) -> tuple["subprocess.Popen[str]", int]:
    """A server, and our end of its lifeline. Raises OSError if the system does not allow another process."""
    read, lifeline = os.pipe()
    environment = {
        "OPENBLAS_NUM_THREADS": "1",  # numpy's threads would compete for the cores that torch needs
        **safe_environment({**os.environ, **more}),
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for CUDA must not initialize it
        "PYTHONHASHSEED": "0",  # peft writes sets of names, whose order would differ between processes
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
            start_new_session=True,  # so that a Ctrl-C reaches only us; we end the server
            pass_fds=(read, *held),
        )
    finally:
        os.close(read)
    return process, lifeline


def _event(line: str) -> Event | None:
    """One event; None: the process died while writing the line."""
    try:
        return EVENT.validate_json(line)
    except ValidationError:
        return None
