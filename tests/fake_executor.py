"""An executor for tests: it answers every job from a function, in the test's own process."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from tunewise.errors import UserError
from tunewise.executors.base import Job, RunJob
from tunewise.records import events
from tunewise.records.events import Event

Answer = Callable[[Job], Iterable[Event]]


class FakeExecutor:
    """Keeps the laws of every executor (tests/conformance); `jobs` are those that were submitted.

    An answer that raises a UserError is reported as such; one without an `end` ended well.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.jobs: list[Job] = []
        self.is_stopping = False
        self.is_running = False

    def __enter__(self) -> "FakeExecutor":
        return self

    def __exit__(self, *of: object) -> None:
        pass

    def submit(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """What the function answers, job after job."""
        for job in jobs:
            self.jobs.append(job)
            self.is_running = isinstance(job, RunJob)
            yield from self._answered(job)
            if self.is_stopping:
                raise KeyboardInterrupt

    def _answered(self, job: Job) -> Iterator[Event]:
        end = events.End(code=0)
        try:
            for event in self.answer(job):
                if isinstance(event, events.End):
                    end = event
                    break
                yield event
        except UserError as error:
            yield events.Refused(kind=type(error).__name__, message=str(error))
            end = events.End(code=2)
        finally:
            self.is_running = False
        yield end

    def stop(self) -> bool:
        """As the local executor's: a run that is going on ends as its answer does, and nothing comes after it."""
        if self.is_stopping or not self.is_running:
            return False
        self.is_stopping = True
        return True
