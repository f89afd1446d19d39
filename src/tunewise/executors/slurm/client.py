"""Places in the queue of Slurm, which keep the laws of every executor."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter, ValidationError

from tunewise.errors import AGAIN, MachineError
from tunewise.executors.attempts import KILLED
from tunewise.executors.base import Executor, Job, LostPlaceError, RunJob
from tunewise.executors.handshake import greet
from tunewise.executors.slurm.queue import LIVING, SlurmQueue
from tunewise.executors.worker import write_job
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.spec import MachineSpec
from tunewise.storage.disk import delete

PAUSE_SECONDS = 0.5  # between two looks at a file of events
LATE_SECONDS = 60.0  # after the end of a job, in which its last events may appear on a network file system
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class SlurmExecutor:
    """A place that has one job in the queue at a time."""

    def __init__(self, queue: SlurmQueue) -> None:
        self.queue = queue
        self.is_stopping = False
        self._job: Job | None = None
        self._number: str | None = None  # of the job in the queue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._number:
            with suppress(MachineError):
                self.queue.cancel(self._number)

    def stop(self) -> bool:
        """Ask the current run to save and stop; False if there is none, or it was asked before."""
        if self.is_stopping or not isinstance(self._job, RunJob):
            return False
        self.is_stopping = True
        if self._number:
            self._ask_to_stop(self._number)
        return True

    def _ask_to_stop(self, number: str) -> None:
        with suppress(MachineError):
            self.queue.ask_to_stop(number)

    def submit(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Events of the jobs, one job after another, each up to its `End`. Raises KeyboardInterrupt after a `stop`."""
        for job in jobs:
            self._job = job
            path = write_job(self.queue.folder, job)
            try:
                self._number = self.queue.submit(path)
                if self.is_stopping:  # asked while it was being submitted, when there was no number to tell
                    self._ask_to_stop(self._number)
                yield from self._followed(path, self._number)
            finally:
                self._job = None
                for suffix in (".json", ".events", ".log"):
                    delete(path.with_suffix(suffix))
            if self.is_stopping:
                raise KeyboardInterrupt

    def _followed(self, path: Path, number: str) -> Iterator[Event]:
        """Events of one job in the queue, up to its end."""
        read, ended, has_stopped = 0, None, False
        while ended is None or time.monotonic() - ended < LATE_SECONDS:
            state = self.queue.state(number)
            found, read = _new_events(path.with_suffix(".events"), read)
            for event in found:
                has_stopped = has_stopped or isinstance(event, events.Stopped)
                if isinstance(event, events.End):
                    self._job = self._number = None
                    if has_stopped and not self.is_stopping:  # by Slurm: at its time limit, or for another job
                        raise LostPlaceError(f"Slurm stopped job {number} before its run was done. {AGAIN}")
                    yield event
                    return
                if self.is_stopping or not isinstance(event, events.Stopped):
                    yield event
            if state in LIVING:
                ended = None
            elif ended is None:
                ended = time.monotonic()
            if state == "OUT_OF_MEMORY":
                break
            if ended and state and self.is_stopping:  # canceled before it began
                raise KeyboardInterrupt
            time.sleep(PAUSE_SECONDS)
        self._number = None
        if state == "OUT_OF_MEMORY":
            yield events.End(code=KILLED, is_short_of_memory=True)
            return
        raise self._lost(number, state, path.with_suffix(".log"))

    def _lost(self, number: str, state: str | None, log: Path) -> MachineError:
        """Why a job ended without saying how."""
        said = ""
        with suppress(OSError):
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = f"; its last line: {lines[-1][:300]}" if lines else ""
        return LostPlaceError(
            f"job {number} of Slurm ended without a result ({state or 'no longer listed'}{said}). {AGAIN}"
        )


def openers(folder: Path, machine: MachineSpec) -> Sequence[Callable[[], Executor]]:
    """Openers of as many places as the study has workers. Raises SpecError if there is no Slurm here."""
    assert isinstance(machine.workers, int), "settled by `prepared`"
    queue = SlurmQueue(folder, machine)
    queue.cancel_waiting()
    return [lambda: SlurmExecutor(queue)] * machine.workers


def greet_first(executor: Executor, folder: Path) -> None:
    """Greet the worker of the first place alone: which machine will make a later run is not known yet."""
    assert isinstance(executor, SlurmExecutor)
    if not executor.queue.is_met:
        greet(executor, folder)
        executor.queue.is_met = True


def _new_events(path: Path, start: int) -> tuple[list[Event], int]:
    """Complete lines after byte `start` as events, and where the next ones begin."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            text = file.read()
    except OSError:  # not there yet
        return [], start
    whole = text[: text.rfind(b"\n") + 1]
    found = []
    for line in whole.splitlines():
        with suppress(ValidationError):  # half a line of a process that died
            found.append(EVENT.validate_json(line))
    return found, start + len(whole)
