"""The worker command: one job file in, a run folder out. Every place that is not a process of the driver starts it.

A job file is stored in `jobs/` of the study folder. Its paths are relative to that folder, so it holds on any machine
that sees the folder, wherever it is mounted. Nothing in it is executed or unpickled, and every name in it is checked.
"""

import re
import secrets
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tunewise.errors import StudyError, clause
from tunewise.executors.attempts import memory_kills, with_cause
from tunewise.executors.base import GreetJob, Job, PlanJob, PrepareJob, ProbeJob, RunJob
from tunewise.executors.local.client import LocalExecutor
from tunewise.records import events
from tunewise.records.events import Event, Listener
from tunewise.spec import RunSpec
from tunewise.storage.disk import make_folder, write_atomically
from tunewise.storage.files import read_text
from tunewise.storage.gate import require_no_links

JOBS = "jobs"
RUN, DATA = r"runs/[0-9a-f]{16}", r"data/[0-9a-f]{16}"
PROBE = r"jobs/probe-[0-9a-f]{16}"
JOB: TypeAdapter[Job] = TypeAdapter(Job)

# Exit statuses of the command.
DONE, FAILED, REFUSED, OUT_OF_MEMORY, TIMED_OUT, STOPPED = 0, 1, 2, 5, 6, 130


def write_job(study: Path, job: Job) -> Path:
    """A new job file in the study folder, for the command `tunewise worker`. Paths of the job are below that folder."""
    path = make_folder(study / JOBS) / f"{secrets.token_hex(8)}.json"
    names = {name: str(getattr(job, name).relative_to(study)) for name in _paths(job)}
    write_atomically(path, job.model_copy(update=names).model_dump_json(indent=1, warnings=False))
    return path


def read_job(path: Path) -> Job:
    """The job in a job file, with absolute paths. Raises StudyError if it is none, or names anything else."""
    path = path.resolve()
    study = path.parent.parent
    if path.parent.name != JOBS or not (study / "runs").is_dir():
        raise StudyError(f"{path} is not a job file: it must be in the folder {JOBS} of a study folder.")
    require_no_links(study)
    try:
        job = JOB.validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StudyError(f"{path} is not a valid job file: {where}: {first['msg']}.") from error
    for name, pattern in _paths(job).items():
        if not re.fullmatch(pattern, given := str(getattr(job, name))):
            raise StudyError(f"{path}: {name} is '{given:.80}', but must match {pattern}.")
    job = job.model_copy(update={name: study / getattr(job, name) for name in _paths(job)})
    if isinstance(job, RunJob):
        _require_run(job)
    return job


def work(job: Job, send: Listener) -> int:
    """Do the job in a process of its own and send its events; returns the exit status by the kind of its end.

    A Ctrl-C or SIGTERM lets a run save and stop.
    """
    ended = _Status()
    try:
        with LocalExecutor() as executor:
            for event in executor.submit([job]):
                if isinstance(event, events.End):
                    event = with_cause(event, ended.kills_before)
                send(event)
                ended.hear(event)
    except KeyboardInterrupt:
        return DONE if ended.status == DONE else STOPPED
    return ended.status


class _Status:
    """Exit status by the events of a job."""

    def __init__(self) -> None:
        self.status = FAILED
        self.kills_before = memory_kills()

    def hear(self, event: Event) -> None:
        match event:
            case events.Done() | events.Prepared() | events.Planned() | events.Probed() | events.Greeted():
                self.status = DONE
            case events.Refused():
                self.status = REFUSED
            case events.Stopped():
                self.status = STOPPED
            case events.TimedOut():
                self.status = TIMED_OUT
            case events.OutOfMemory():
                self.status = OUT_OF_MEMORY
            case events.End(is_short_of_memory=True):
                self.status = OUT_OF_MEMORY
            case _:
                pass


def _paths(job: Job) -> dict[str, str]:
    """Fields of a job that are paths, with the pattern that each must match."""
    match job:
        case PrepareJob():
            return {"root": "data"}
        case PlanJob() | ProbeJob():
            return {"root": DATA}
        case RunJob():
            return {"folder": RUN, "data": DATA}
        case GreetJob():
            return {"probe": PROBE}


def _require_run(job: RunJob) -> None:
    """Raise StudyError unless the run's folder holds the spec of this run."""
    path = job.folder / "spec.json"
    try:
        spec = RunSpec.model_validate_json(read_text(path))
    except ValidationError as error:
        raise StudyError(f"{path} is not the specification of a run: {clause(error)[:200]}.") from error
    if spec.run_id != job.folder.name:
        raise StudyError(f"{path} is of run {spec.run_id}, but its folder is named {job.folder.name}.")
