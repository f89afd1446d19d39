"""What is told while a study is made: typed events, from the process of a run to whoever listens to `compare`.

A job of an executor reports its events in the order in which they happen, and last its `end`.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from tunewise.records.data import DataSummary
from tunewise.records.plan import Speed, StudyPlan
from tunewise.spec import Frozen, RunSpec
from tunewise.spec.resolved import ResolvedStudy


class OfRun(Frozen):
    """An event that the process of a run reports; `run` is filled in by whoever started it."""

    run: str | None = None  # its id; None: not a run's, or not filled in yet

    @model_serializer(mode="wrap")
    def _without_missing(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dumped(self).items() if value is not None}


# --- what the driver tells


class Preparing(Frozen):
    """The data is prepared, or found prepared."""

    event: Literal["preparing"] = "preparing"


class Planning(Frozen):
    """The study is planned, or its plan is found."""

    event: Literal["planning"] = "planning"


class Remark(Frozen):
    """What a fairness rule says: a finding of the desk as plain data."""

    id: str
    severity: str
    sentence: str
    evidence: str
    arms: tuple[str, ...]
    forbids: tuple[str, ...]


class Findings(Frozen):
    """What the fairness rules say before anything is trained."""

    event: Literal["findings"] = "findings"
    findings: tuple[Remark, ...]


class Unplanned(Frozen):
    """Something that the plan lacks, and why; the study goes on without it."""

    event: Literal["unplanned"] = "unplanned"
    message: str


class Checked(Frozen):
    """What `check` knows before the study is planned; `remarks`: what is in the way of the runs."""

    event: Literal["checked"] = "checked"
    study: ResolvedStudy
    data: DataSummary
    remarks: tuple[str, ...]


class Begin(Frozen):
    """A run starts; `done` are finished of about `expected`."""

    event: Literal["begin"] = "begin"
    spec: RunSpec
    done: int
    expected: int


class Halved(OfRun):
    """The system killed a run for memory: it is tried again with at most `max_tokens` at a time."""

    event: Literal["halved"] = "halved"
    max_tokens: int


# --- what a job tells


class Ready(Frozen):
    """A server has loaded its libraries."""

    event: Literal["ready"] = "ready"


class Prepared(Frozen):
    """The data is prepared under `key`."""

    event: Literal["prepared"] = "prepared"
    key: str


class Planned(Frozen):
    """The study is planned."""

    event: Literal["planned"] = "planned"
    plan: StudyPlan


class Probed(Frozen):
    """The speed of an arm is measured."""

    event: Literal["probed"] = "probed"
    speed: Speed


class Step(OfRun):
    """One optimizer step of a run, as in its steps.jsonl."""

    event: Literal["step"] = "step"
    num_steps: int  # that the run has in all
    step: int  # from 1
    loss: float  # nats per target of the step, before the update
    learning_rate: float
    gradient_norm: float  # before clipping
    num_targets: int
    num_tokens: int
    seconds: float


class Done(OfRun):
    """A run has its record."""

    event: Literal["done"] = "done"


class Stopping(OfRun):
    """A job was asked to stop, and will."""

    event: Literal["stopping"] = "stopping"


class Stopped(OfRun):
    """A run stopped because it was asked to; `message` says after which step."""

    event: Literal["stopped"] = "stopped"
    message: str


class TimedOut(OfRun):
    """A run was slower than machine.run_limit_seconds allows."""

    event: Literal["timeout"] = "timeout"


class Refused(OfRun):
    """What the user or the machine can change; `kind` is a name in errors.USER_ERRORS."""

    event: Literal["error"] = "error"
    kind: str
    message: str
    log: str | None = None  # None: it is the user's mistake, and says all there is


class Crashed(OfRun):
    """A job failed for another reason; `log` holds all of it."""

    event: Literal["crash"] = "crash"
    message: str
    log: str


class OutOfMemory(OfRun):
    """A job needed more memory than there is; `log` holds all of it."""

    event: Literal["memory"] = "memory"
    message: str
    log: str


class End(OfRun):
    """The last event of every job: its exit status, negative for a signal."""

    event: Literal["end"] = "end"
    code: int


OfDriver = Preparing | Planning | Findings | Unplanned | Checked | Begin | Halved
OfJob = (
    Ready | Prepared | Planned | Probed | Step | Done | Stopping | Stopped | TimedOut | Refused | Crashed | OutOfMemory
)
Event = Annotated[OfDriver | OfJob | End, Field(discriminator="event")]
Listener = Callable[[Event], None]


def unheard(event: Event) -> None:
    """The listener that listens to nothing."""


def of_run(event: Event, run_id: str) -> Event:
    """The event, named after its run where it is one of a run's."""
    return event.replace(run=run_id) if isinstance(event, OfRun) else event
