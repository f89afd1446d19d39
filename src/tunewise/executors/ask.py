"""Jobs with one answer: prepare the data, plan a study, measure a speed."""

from pathlib import Path
from typing import TypeVar

from tunewise.errors import USER_ERRORS, MachineError, TunewiseError
from tunewise.executors.base import Executor, GreetJob, Job, PlanJob, PrepareJob, ProbeJob
from tunewise.records import events
from tunewise.records.plan import ArmPlan, PlanRequest, Speed, StudyPlan
from tunewise.records.worker import Worker
from tunewise.spec import StudySpec

Answer = TypeVar("Answer", events.Prepared, events.Planned, events.Probed, events.Greeted)


def prepare(executor: Executor, study: StudySpec, root: Path) -> str:
    """Key of the prepared data below `root`. Raises UserError for anything wrong with the study."""
    return _answer(executor, PrepareJob(study=study, root=root), events.Prepared, "preparing the data").key


def plan(executor: Executor, study: StudySpec, folder: Path, request: PlanRequest) -> StudyPlan:
    """What the study will need; `folder` holds its prepared data, or is a place for it. Raises UserError."""
    return _answer(executor, PlanJob(study=study, root=folder, request=request), events.Planned, "planning").plan


def probe(executor: Executor, study: StudySpec, folder: Path, arm: str, plan: ArmPlan) -> Speed:
    """Speed of an arm that was planned in `folder`. Raises TunewiseError if it cannot be measured."""
    job = ProbeJob(study=study, root=folder, arm=arm, plan=plan)
    return _answer(executor, job, events.Probed, "measuring the speed").speed


def greet(executor: Executor, probe: Path) -> Worker:
    """Who does the jobs there, and what it read in the file. Raises TunewiseError if it does not answer."""
    return _answer(executor, GreetJob(probe=probe), events.Greeted, "greeting a worker").worker


def _answer(executor: Executor, job: Job, kind: type[Answer], doing: str) -> Answer:
    """The answer of that kind. A process that was killed is asked once more: whatever killed it may be over."""
    for _ in range(2):
        if (answer := _asked(executor, job, kind, doing)) is not None:
            return answer
    raise TunewiseError(
        f"{doing} ended without a result, twice: the process was killed, probably because memory ran out."
    )


def _asked(executor: Executor, job: Job, kind: type[Answer], doing: str) -> Answer | None:
    """The answer, or None if the process was killed.

    Events are read to the end even after a failure, or the next job would get them.
    """
    answer: Answer | None = None
    failure: TunewiseError | None = None
    crash: str | None = None
    for event in executor.submit([job]):
        match event:
            case events.Refused():
                failure = USER_ERRORS[event.kind](event.message)
            case events.Crashed() | events.OutOfMemory():
                failure = TunewiseError(f"{doing} failed: {event.message} (full log: {event.log})")
            case kind():
                answer = event
            case events.End():
                crash = event.crash
            case _:
                pass
    if failure:
        raise failure
    if answer is None and crash:
        raise MachineError(
            f"{doing} ended because a library crashed ({crash}), as some do on a damaged file. "
            "Check the files of the data and the model, and write or download them again."
        )
    return answer
