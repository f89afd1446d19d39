"""Jobs, and the interface of an executor: one method that takes jobs and yields their events."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Protocol, Self

from pydantic import Field

from tunewise.errors import MachineError
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
    """Measure the speed of an arm that was planned in `root`; reports Probed."""

    job: Literal["probe"] = "probe"
    study: StudySpec
    root: Path
    arm: str
    plan: ArmPlan


class RunJob(Frozen):
    """Make or resume the run in `folder`, which holds its spec; reports every Step, and Done or Stopped."""

    job: Literal["run"] = "run"
    folder: Path
    data: Path  # folder of the prepared data
    checkpoint_seconds: float
    limit_seconds: float | None
    max_tokens: int  # tokens per micro-batch
    devices: int = 1  # processes that make the run together
    lease: str | None = None  # nonce of the run's lease, which its process adopts; None: there is none

    @property
    def root(self) -> Path:
        """Folder of its log."""
        return self.folder


class GreetJob(Frozen):
    """Read a file of the study folder, and say who is there; reports Greeted."""

    job: Literal["greet"] = "greet"
    probe: Path

    @property
    def root(self) -> None:
        """It has no log: its folder may not be visible."""


Job = Annotated[PrepareJob | PlanJob | ProbeJob | RunJob | GreetJob, Field(discriminator="job")]


class LostPlaceError(MachineError):
    """The place where jobs are done is gone. Its run has no result, and another place can make or resume it."""


class Executor(Protocol):
    """Executes jobs inside `with`. The executor does not know why a job is tried, nor what follows from its result.

    tests/conformance/test_executors.py holds the laws that every executor keeps.
    """

    def submit(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Events of the jobs, one job after another, each up to its `End`.

        A failing job reports its failure and ends. Raises LostPlaceError if the place is gone, and another
        TunewiseError if the executor itself fails otherwise. After a `stop`, raises KeyboardInterrupt once the current
        run has ended; no later job starts.
        """

    def stop(self) -> bool:
        """Ask the current run to save and stop; False if there is none, or it was asked before."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
