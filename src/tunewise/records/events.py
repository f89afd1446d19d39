"""Typed events of a study, from the process of a run to the listener of `compare`.

A job of an executor reports its events in the order in which they happen; `End` is the last one.
"""

import signal
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from tunewise.records.data import DataSummary
from tunewise.records.plan import Prospect, Speed, StudyPlan
from tunewise.records.worker import Worker
from tunewise.spec import Frozen, RunSpec
from tunewise.spec.resolved import ResolvedStudy

# The signals that a process raises on itself: a failed assertion, an invalid address or instruction.
CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP)


class OfRun(Frozen):
    """An event that the process of a run reports. The parent process fills in `run`."""

    run: str | None = None  # id of the run; None: not of a run, or not filled in yet

    @model_serializer(mode="wrap")
    def _without_missing(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dumped(self).items() if value is not None}


# --- from the driver


class Preparing(Frozen):
    """Data preparation begins."""

    event: Literal["preparing"] = "preparing"


class Planning(Frozen):
    """Planning begins."""

    event: Literal["planning"] = "planning"


class Remark(Frozen):
    """A finding of a fairness rule as plain data."""

    id: str
    severity: str
    sentence: str
    evidence: str
    arms: tuple[str, ...]
    forbids: tuple[str, ...]


class Findings(Frozen):
    """Findings of the fairness rules before training."""

    event: Literal["findings"] = "findings"
    findings: tuple[Remark, ...]


class Prospects(Frozen):
    """The chances of an answer, after the search and before any test score."""

    event: Literal["prospects"] = "prospects"
    prospects: tuple[Prospect, ...]
    sentences: tuple[str, ...]
    is_hopeless: bool  # below what the caller asked for: the study ends here


class TooLong(Frozen):
    """The study is planned at more than an hour; shorter versions, as options of the same command."""

    event: Literal["too-long"] = "too-long"
    sentence: str
    versions: tuple[str, ...]


class NextSet(Frozen):
    """The study of one of several datasets begins; the events that follow are its own."""

    event: Literal["next-set"] = "next-set"
    name: str
    number: int  # from 1
    total: int


class Unplanned(Frozen):
    """Something that the plan lacks, and why. The study continues without it."""

    event: Literal["unplanned"] = "unplanned"
    message: str


class Crowded(Frozen):
    """The machine has not enough memory for as many runs at the same time as it has workers."""

    event: Literal["crowded"] = "crowded"
    message: str


class Checked(Frozen):
    """What `check` knows before the study is planned. `remarks`: what would prevent the runs."""

    event: Literal["checked"] = "checked"
    study: ResolvedStudy
    data: DataSummary
    remarks: tuple[str, ...]


class Begin(Frozen):
    """Start of a run; `done` of about `expected` runs are finished."""

    event: Literal["begin"] = "begin"
    spec: RunSpec
    done: int
    expected: int


class Halved(OfRun):
    """The system killed a run for memory. It is tried again with at most `max_tokens` per micro-batch."""

    event: Literal["halved"] = "halved"
    max_tokens: int


class Moved(OfRun):
    """The place of a run was lost, as `message` says. The run is made or resumed at another place."""

    event: Literal["moved"] = "moved"
    message: str


# --- from a job


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


class Greeted(Frozen):
    """A worker has said who it is."""

    event: Literal["greeted"] = "greeted"
    worker: Worker


class Step(OfRun):
    """One optimizer step of a run, as in its steps.jsonl."""

    event: Literal["step"] = "step"
    num_steps: int  # steps of the whole run
    step: int  # from 1
    loss: float  # nats per target of the step, before the update
    learning_rate: float
    gradient_norm: float  # before clipping
    num_targets: int
    num_tokens: int
    seconds: float


class Done(OfRun):
    """The record of a run is stored."""

    event: Literal["done"] = "done"


class Stopping(OfRun):
    """A job was asked to stop and will do so."""

    event: Literal["stopping"] = "stopping"


class Stopped(OfRun):
    """A run stopped on request; `message` says after which step."""

    event: Literal["stopped"] = "stopped"
    message: str


class TimedOut(OfRun):
    """A run took longer than machine.run_limit_seconds."""

    event: Literal["timeout"] = "timeout"


class Refused(OfRun):
    """A problem that the user can fix. `kind` is a name in errors.USER_ERRORS."""

    event: Literal["error"] = "error"
    kind: str
    message: str
    log: str | None = None  # None: a mistake of the user, fully explained by the message


class Crashed(OfRun):
    """A job failed for another reason; `log` is its full log."""

    event: Literal["crash"] = "crash"
    message: str
    log: str


class OutOfMemory(OfRun):
    """A job needed more memory than there is; `log` is its full log."""

    event: Literal["memory"] = "memory"
    message: str
    log: str


class End(OfRun):
    """Last event of every job: its exit status, negative for a signal."""

    event: Literal["end"] = "end"
    code: int
    is_short_of_memory: bool | None = None  # whether memory ran out on the job's machine; None: nobody looked there

    @property
    def crash(self) -> str | None:
        """The signal by which a library ended the process; None: it ended otherwise, or was ended from outside."""
        return next((known.name for known in CRASHES if known == -self.code), None)


OfStudy = Preparing | Planning | Findings | Prospects | TooLong | NextSet | Unplanned | Crowded | Checked
OfDriver = OfStudy | Begin | Halved | Moved
OfRuns = Step | Done | Stopping | Stopped | TimedOut | Refused | Crashed | OutOfMemory
OfJob = Ready | Greeted | Prepared | Planned | Probed | OfRuns
Event = Annotated[OfDriver | OfJob | End, Field(discriminator="event")]
Listener = Callable[[Event], None]


def unheard(event: Event) -> None:
    """A listener that ignores every event."""


def of_run(event: Event, run_id: str) -> Event:
    """The event with its run filled in, if it belongs to a run."""
    return event.replace(run=run_id) if isinstance(event, OfRun) else event
