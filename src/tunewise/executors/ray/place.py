"""What an actor of Ray holds: a server on its machine.

A node imports this module by its name, and only texts travel: a job there, its events back.
"""

import os
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, TypeAdapter

from tunewise.errors import USER_ERRORS, TunewiseError
from tunewise.executors.attempts import memory_kills, with_cause
from tunewise.executors.base import Job, LostPlaceError
from tunewise.executors.local.client import LocalExecutor
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.spec import Frozen

THREADS = "OMP_NUM_THREADS"  # torch's own default, where a study does not say how many
JOB: TypeAdapter[Job] = TypeAdapter(Job)
ERRORS = {**USER_ERRORS, TunewiseError.__name__: TunewiseError, LostPlaceError.__name__: LostPlaceError}


class Raised(Frozen):
    """What the server's client raised; an exception itself would travel as a pickle."""

    event: Literal["raised"] = "raised"
    kind: str
    message: str = Field(max_length=10_000)

    def error(self) -> BaseException:
        """The same error again."""
        return ERRORS[self.kind](self.message) if self.kind in ERRORS else KeyboardInterrupt()


OUTCOME: TypeAdapter[Event | Raised] = TypeAdapter(Event | Raised)


class Place:
    """A server that does one job at a time. `do` and `stop` are called in threads of their own.

    `folder` is the driver's current folder, from which relative paths of a study start; `threads` is what the driver's
    OMP_NUM_THREADS says, which replaces what Ray sets there.
    """

    def __init__(self, folder: str, threads: str | None) -> None:
        os.chdir(folder)
        os.environ.pop(THREADS, None)
        if threads is not None:
            os.environ[THREADS] = threads
        self.server = LocalExecutor()  # not entered: the signals of this process are Ray's
        self.is_asked = False

    def ready(self) -> None:
        """Return once the place exists."""

    def do(self, job: str) -> Iterator[str]:
        """Events of a job as JSON. The last is the job's `End`, or what the server's client raised."""
        kills_before = memory_kills()
        try:
            for event in self.server.submit([JOB.validate_json(job)]):
                if self.is_asked:  # perhaps before the job was known
                    self.server.stop()
                if isinstance(event, events.End):
                    event = with_cause(event, kills_before)
                yield event.model_dump_json()
        except (TunewiseError, KeyboardInterrupt) as error:
            yield Raised(kind=type(error).__name__, message=str(error)[:10_000]).model_dump_json()

    def stop(self) -> None:
        """Ask the current run to save and stop."""
        self.is_asked = True
        self.server.stop()
