"""An executor for tests: it answers every job from a function, in the test's own process."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from tunewise.executors.base import Job, RunJob
from tunewise.records import events
from tunewise.records.events import Event

Answer = Callable[[Job], Iterable[Event]]


class FakeExecutor:
    """Keeps the laws of every executor (tests/conformance); `jobs` are those that were submitted.

    An answer without an `end` ended well. What it raises is raised, as of an executor that is broken.
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
            end = events.End(code=0)
            for event in self.answer(job):
                if isinstance(event, events.End):
                    end = event
                    break
                yield event
            self.is_running = False
            yield end
            if self.is_stopping:
                raise KeyboardInterrupt

    def stop(self) -> bool:
        """As the local executor's: a run that is going on ends as its answer does, and nothing comes after it."""
        if self.is_stopping or not self.is_running:
            return False
        self.is_stopping = True
        return True
