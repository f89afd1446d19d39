"""A small server that has torch, transformers and peft loaded, and forks a process for every job.

`python -P -m tunewise.executors.local.server` reads one JSON request per line from standard input and writes one JSON
event per line to standard output. It runs no tensor operation and never touches CUDA, so its children start clean
within hundredths of a second. There are no pickles and no `multiprocessing`, so a plain script needs no `__main__`
guard.

The requests are the jobs of executors/base.py, the events those of records/events.py. A job reports its results,
`error` for mistakes of the user, `memory` or `crash` for other failures, `stopping` when asked to stop, `stopped` when
it did, `timeout`, and last `end`.

The first argument is a handle of the lifeline (executors/local/lifeline.py): no job outlives the process that asked for
it.
"""

import gc
import importlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from tunewise.errors import MachineError, UserError, refusal
from tunewise.executors.base import GreetJob, Job, PlanJob, PrepareJob, ProbeJob, RunJob
from tunewise.executors.local.lifeline import watch
from tunewise.executors.local.shares import VISIBLE, visible_gpus
from tunewise.executors.local.together import Part, together
from tunewise.inputs.import_path import PYTHON
from tunewise.records import RunRecord, events
from tunewise.records.events import Event, unheard
from tunewise.spec import RunSpec
from tunewise.storage.disk import delete, make_folder, open_own
from tunewise.storage.files import reraise_as_study_error
from tunewise.storage.lease import held
from tunewise.text.safe import redacted

if TYPE_CHECKING:
    from tunewise.lab.placement import Placement

ALONE = Part()
CAN_FORK = sys.platform == "linux"  # elsewhere forking a process with loaded system libraries is not safe
# pyarrow imports pandas when a table is made from Python lists: half a second, which every job would pay again
PRELOADED = ("tunewise.lab.prepare", "tunewise.lab.run.story", "pandas", "pyarrow.compute")


def serve() -> None:
    """Answer requests until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the process that started the server decides what they mean
        signal.signal(number, signal.SIG_IGN)
    if CAN_FORK:
        _preload()
    send(events.Ready())
    for line in sys.stdin:
        code = _in_fork(line) if CAN_FORK else _in_fresh_process(line)
        send(events.End(code=code))


def _preload() -> None:
    """Import what jobs need, and exclude it from garbage collection, here and in every job.

    Some 700,000 objects stay until the end. Each full collection would scan them for 0.2 s, and in a fork copy their
    memory.
    """
    gc.disable()
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()


def send(event: Event) -> None:
    """Send one event to the parent process, on its own line even after an incomplete one of a job that died."""
    left = f"\n{event.model_dump_json()}\n".encode()
    try:
        while left:  # a signal may interrupt a write
            left = left[os.write(EVENTS, left) :]
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more: the process that asked for the work is gone


def _in_fork(line: str) -> int:
    job = JOB.validate_json(line)
    try:
        return together(job.devices if isinstance(job, RunJob) else 1, lambda part: do(job, part))
    except OSError as error:
        send(events.Refused(kind=MachineError.__name__, message=refusal(error) or str(error)))
        return 2


def _in_fresh_process(line: str) -> int:
    command = [*PYTHON, "-m", "tunewise.executors.local.server", str(LIFELINE), line]
    return subprocess.run(command, check=False, stdout=EVENTS, pass_fds=(EVENTS, LIFELINE)).returncode


def do(job: Job, part: Part = ALONE) -> int:
    """Do one job, or a part of a run, in this process, with its output in a log; returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches every process of a terminal; the parent tells us
    log = job.root / "log.txt" if job.root else None
    try:
        if log:
            _print_into(log)
        if isinstance(job, RunJob) and part != ALONE:
            run_job(job, part)
        else:
            JOBS[job.job](job)
    except UserError as error:
        if part.may_report():
            send(events.Refused(kind=type(error).__name__, message=redacted(str(error))))
        return 2
    except Exception as error:  # the executor boundary: a crash costs only this job
        with suppress(OSError):  # a full disk has no room for the traceback either
            sys.stderr.write(redacted(traceback.format_exc()))
        if part.may_report():
            send(_told(error, str(log)))
        return 1
    return 0


def _told(error: Exception, log: str) -> Event:
    """Event that reports the outcome of a failed job."""
    from tunewise.lab.train.memory import is_out_of_memory

    message = redacted(f"{type(error).__name__}: {error}")[:1000]
    if is_out_of_memory(error):
        return events.OutOfMemory(message=message, log=log)
    if refused := refusal(error):
        return events.Refused(kind=MachineError.__name__, message=redacted(refused), log=log)
    return events.Crashed(message=message, log=log)


def _print_into(log: Path) -> None:
    """From now on, append this process's output to that file. Raises StudyError if the disk refuses."""
    make_folder(log.parent)
    with reraise_as_study_error(log):
        handle = open_own(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def prepare_job(job: PrepareJob) -> None:
    """Prepare the data of a study."""
    from tunewise.lab.prepare import prepare

    watch(LIFELINE, None, send)
    # rows are a million objects without cycles, which full collections would scan again and again: 4 s for 200,000 rows
    gc.set_threshold(10_000, 50, 1_000_000)
    send(events.Prepared(key=prepare(job.study, job.root)))


def run_job(job: RunJob, part: Part = ALONE) -> None:
    """Execute one run, or take part in it. Only its first process reports."""
    from tunewise.lab.run.story import Run
    from tunewise.lab.train.checkpoint import Checkpoints, StoppedError

    spec = RunSpec.model_validate_json((job.folder / "spec.json").read_text(encoding="utf-8"))
    report, lease, limit = (send, job.lease, job.limit_seconds) if part.rank == 0 else (unheard, None, None)
    asked = watch(LIFELINE, limit, report)
    signal.signal(signal.SIGTERM, lambda number, frame: asked.set())  # batch systems send it to every process
    try:
        with _placed(spec, job.folder, part) as place, held(job.folder, lease) if lease else nullcontext() as adopted:
            checkpoints = Checkpoints(job.folder, job.checkpoint_seconds, asked.is_set, place)
            run = Run(spec, job.folder, job.data, report, checkpoints, adopted)
            record: RunRecord = run.execute(job.max_tokens)
    except StoppedError as stopped:
        report(events.Stopped(message=str(stopped)))
    else:
        report(events.Done(run=record.run_id))


@contextmanager
def _placed(spec: RunSpec, folder: Path, part: Part) -> Iterator["Placement"]:
    """Place of this process in the run, once all of them are there."""
    from tunewise.lab.placement import Placement

    if spec.devices == 1:
        yield Placement()
        return
    if spec.device == "cuda":  # each sees one GPU, which it then calls the first
        os.environ[VISIBLE] = visible_gpus()[part.rank]
    meeting = folder / part.meeting
    yield Placement.join(spec.device, part.rank, spec.devices, meeting)
    delete(meeting)


def plan_job(job: PlanJob) -> None:
    """Plan a study."""
    from tunewise.lab.plan.study import plan_study

    watch(LIFELINE, None, send)
    send(events.Planned(plan=plan_study(job.study, job.root, job.request)))


def greet_job(job: GreetJob) -> None:
    """Say who is here, and what the file says that the driver has just written."""
    from tunewise.lab.machine import describe_worker

    watch(LIFELINE, None, send)
    nonce = job.probe.read_text(encoding="utf-8") if job.probe.is_file() else ""
    send(events.Greeted(worker=describe_worker(nonce[:64])))


def probe_job(job: ProbeJob) -> None:
    """Measure the speed of one arm."""
    from tunewise.lab.plan.timing import probe_arm

    watch(LIFELINE, None, send)
    send(events.Probed(speed=probe_arm(job.study, job.root, job.arm, job.plan)))


JOBS: dict[str, Callable[[Any], None]] = {
    "prepare": prepare_job,
    "plan": plan_job,
    "probe": probe_job,
    "run": run_job,
    "greet": greet_job,
}
JOB: TypeAdapter[Job] = TypeAdapter(Job)

# Events have a descriptor of their own, so that library output cannot mix with them.
EVENTS = 1
LIFELINE = -1  # the handle given to this process

if __name__ == "__main__":
    EVENTS = os.dup(1)
    os.dup2(2, 1)
    LIFELINE = int(sys.argv[1])
    if len(sys.argv) > 2:
        sys.exit(do(JOB.validate_json(sys.argv[2])))
    serve()
