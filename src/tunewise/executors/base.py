"""Jobs, and what executes them: one method, which takes jobs and gives the events that they report."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Protocol, Self

from pydantic import Field

from tunewise.records.events import Event
from tunewise.records.plan import ArmPlan, PlanRequest
from tunewise.spec import Frozen, StudySpec


class PrepareJob(Frozen):
    """Prepare the data of a study below `root`; reports Prepared."""

    job: Literal["prepare"] = "prepare"
    study: StudySpec
    root: Path


class PlanJob(Frozen):
    """Plan a study; `root` holds its prepared data, or is a place for it. Reports Planned."""

    job: Literal["plan"] = "plan"
    study: StudySpec
    root: Path
    request: PlanRequest


class ProbeJob(Frozen):
    """Measure the speed of an arm, planned in `root`; reports Probed."""

    job: Literal["probe"] = "probe"
    study: StudySpec
    root: Path
    arm: str
    plan: ArmPlan


class RunJob(Frozen):
    """Make or continue the run in `folder`, which holds its spec; reports every Step, and Done or Stopped."""

    job: Literal["run"] = "run"
    folder: Path
    data: Path  # the folder of the prepared data
    checkpoint_seconds: float
    limit_seconds: float | None
    max_tokens: int  # of a batch in memory at once

    @property
    def root(self) -> Path:
        """Where its log is written."""
        return self.folder


Job = Annotated[PrepareJob | PlanJob | ProbeJob | RunJob, Field(discriminator="job")]


class Executor(Protocol):
    """Executes jobs, inside `with`. What a job was tried for and what becomes of it is not the executor's concern.

    tests/conformance/test_executors.py holds the laws that every executor keeps.
    """

    def submit(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """What the jobs report, job after job in their order, each to its `end`.

        A job that fails reports so and ends; only what the executor itself cannot do raises a TunewiseError. After a
        `stop`, raises KeyboardInterrupt once the run that was going on has ended; no later job starts.
        """

    def stop(self) -> bool:
        """Ask the run that is going on to save and stop; False where none is, or it was asked before."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
