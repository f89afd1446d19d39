"""Laws of executors: every one of them, this machine's and the tests' own, keeps them; a new one is one line here."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from desk.conftest import study_spec
from fake_executor import FakeExecutor
from on_ray import by_value, needs_ray
from on_slurm import fake_slurm
from tunewise.errors import DataError, TunewiseError
from tunewise.executors import ask
from tunewise.executors.base import Executor, Job, PrepareJob, RunJob
from tunewise.executors.local import client
from tunewise.executors.local.client import LocalExecutor
from tunewise.executors.ray.client import RayPlaces
from tunewise.executors.ray.cluster import Demand, connected
from tunewise.executors.ray.place import Place
from tunewise.executors.slurm import queue
from tunewise.executors.slurm.client import SlurmExecutor
from tunewise.executors.slurm.queue import SlurmQueue
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.spec import MachineSpec

# What the jobs below do, by the name of their folder: in a server of its own, and as answers of the fake.
JOBS = """
import os, sys, time
from pathlib import Path
from tunewise.errors import DataError
from tunewise.executors.local import server
from tunewise.executors.local.lifeline import watch
from tunewise.records import events

def by_name(job):
    asked = watch(server.LIFELINE, None, server.send)
    name = job.root.name
    if name == "refused":
        raise DataError("no rows")
    if name == "crash":
        server.send(events.Stopping())
        raise RuntimeError("broken")
    if name == "killed":
        os.kill(os.getpid(), 9)
    if name == "waits":
        server.send(events.Halved(max_tokens=1))
        asked.wait(60)
        server.send(events.Stopped(message="stopped"))
        return
    server.send(events.Done() if job.job == "run" else events.Prepared(key=name))

server.PRELOADED = ()
server.JOBS = {"prepare": by_name, "run": by_name}
server.EVENTS = os.dup(1)
os.dup2(2, 1)
server.LIFELINE = int(sys.argv[1])
server.serve()
"""


def answer(job: Job) -> Iterator[Event]:
    """The same as answers."""
    match job.root.name:
        case "refused":
            yield events.Refused(kind="DataError", message="no rows")
            yield events.End(code=2)
        case "crash":
            yield events.Stopping()
            yield events.Crashed(message="RuntimeError: broken", log=str(job.root / "log.txt"))
            yield events.End(code=1)
        case "killed":
            yield events.End(code=-9)
        case "waits":
            yield events.Halved(max_tokens=1)
            yield events.Stopping()
            yield events.Stopped(message="stopped")
        case name:
            yield events.Done() if isinstance(job, RunJob) else events.Prepared(key=name)


class StrangePlace(Place):
    """A place in an actor, whose server does the jobs above."""

    def __init__(self, folder: str, threads: str | None) -> None:
        client.SERVER = ("-c", JOBS)
        super().__init__(folder, threads)


def local(request: pytest.FixtureRequest) -> Executor:
    return LocalExecutor()


def fake(request: pytest.FixtureRequest) -> Executor:
    return FakeExecutor(answer)


def on_ray(request: pytest.FixtureRequest) -> Executor:
    ray_alone: RayPlaces = request.getfixturevalue("ray_alone")
    return ray_alone.open()


# The same as a worker command, in a job of Slurm.
WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from tunewise.records import events

def send(*told):
    with open(sys.argv[3], "a", encoding="utf-8") as file:
        file.writelines(event.model_dump_json() + chr(10) for event in told)

asked = []
signal.signal(signal.SIGTERM, lambda *of: asked.append(1))
job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
folder = Path(job.get("root") or job["folder"])
if folder.name == "refused":
    send(events.Refused(kind="DataError", message="no rows"), events.End(code=2))
elif folder.name == "crash":
    crash = events.Crashed(message="RuntimeError: broken", log=str(folder / "log.txt"))
    send(events.Stopping(), crash, events.End(code=1))
elif folder.name == "killed":
    send(events.End(code=-9))
elif folder.name == "waits":
    send(events.Halved(max_tokens=1))
    while not asked:
        time.sleep(0.05)
    send(events.Stopping(), events.Stopped(message="stopped"), events.End(code=0))
else:
    send(events.Done() if job["job"] == "run" else events.Prepared(key=folder.name), events.End(code=0))
"""


def on_slurm(request: pytest.FixtureRequest) -> Executor:
    tmp_path, patch = request.getfixturevalue("tmp_path"), request.getfixturevalue("monkeypatch")
    fake_slurm(patch, tmp_path)
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    patch.setattr(queue, "WORKER", (sys.executable, str(tmp_path / "worker.py")))
    return SlurmExecutor(SlurmQueue(tmp_path, MachineSpec()))


@pytest.fixture(scope="module")
def ray_alone() -> Iterator[RayPlaces]:
    """A cluster of this machine alone."""
    needs_ray()
    with connected(None), by_value(__name__), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunewise.executors.ray.client.Place", StrangePlace)
        yield RayPlaces(Demand(cpus=1, gpus=0))


ALL = [local, fake, on_slurm, pytest.param(on_ray, marks=pytest.mark.slow)]


@pytest.fixture(params=ALL, ids=["local", "fake", "slurm", "ray"])
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    monkeypatch.setattr(client, "SERVER", ("-c", JOBS))
    make: Callable[[pytest.FixtureRequest], Executor] = request.param
    with make(request) as made:
        yield made


def prepare(folder: Path) -> PrepareJob:
    return PrepareJob(study=study_spec(), root=folder)


def run(folder: Path) -> RunJob:
    return RunJob(folder=folder, data=folder, checkpoint_seconds=300, limit_seconds=None, max_tokens=1)


def kinds(executor: Executor, jobs: Sequence[Job]) -> list[str]:
    return [event.event for event in executor.submit(jobs)]


ENDS = {"good": 0, "refused": 2, "crash": 1, "killed": -9}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_a_job_is_told_to_its_end_and_the_end_says_how_it_went(executor: Executor, name: str, tmp_path: Path) -> None:
    told = list(executor.submit([prepare(tmp_path / name)]))
    assert isinstance(told[-1], events.End)
    assert told[-1].code == ENDS[name]
    assert sum(isinstance(event, events.End) for event in told) == 1
    assert kinds(executor, [prepare(tmp_path / "good")]) == ["prepared", "end"], "the next job has its own events alone"


@pytest.mark.slow
def test_jobs_come_in_their_order_each_with_its_own_end(executor: Executor, tmp_path: Path) -> None:
    jobs = [prepare(tmp_path / name) for name in ("good", "crash", "killed", "other", "refused")]
    told = list(executor.submit(jobs))
    assert [event.code for event in told if isinstance(event, events.End)] == [0, 1, -9, 0, 2]
    assert [event.key for event in told if isinstance(event, events.Prepared)] == ["good", "other"]
    assert [event.event for event in told][2:5] == ["stopping", "crash", "end"]
    assert kinds(executor, []) == []


@pytest.mark.slow
def test_what_a_job_failed_of_is_told_by_its_kind(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        ask.prepare(executor, study_spec(), tmp_path / "refused")
    with pytest.raises(TunewiseError, match=r"preparing the data failed: RuntimeError: broken \(full log: .*log.txt"):
        ask.prepare(executor, study_spec(), tmp_path / "crash")
    with pytest.raises(TunewiseError, match="was killed"):
        ask.prepare(executor, study_spec(), tmp_path / "killed")
    assert ask.prepare(executor, study_spec(), tmp_path / "good") == "good"


def test_a_run_that_is_asked_to_stop_is_told_to_its_end_and_no_other_starts(executor: Executor, tmp_path: Path) -> None:
    told: list[str] = []
    answers: list[bool] = []

    def drive() -> None:
        for event in executor.submit([run(tmp_path / "waits"), run(tmp_path / "good")]):
            told.append(event.event)
            if event.event == "halved":
                answers.extend([executor.stop(), executor.stop()])

    with pytest.raises(KeyboardInterrupt):
        drive()
    assert told == ["halved", "stopping", "stopped", "end"]
    assert answers == [True, False], "it is asked once"


def test_nothing_is_asked_to_stop_where_no_run_is_going_on(executor: Executor, tmp_path: Path) -> None:
    assert not executor.stop()
    for event in executor.submit([prepare(tmp_path / "good")]):
        assert event.event == "end" or not executor.stop(), "preparing is not continued: it is simply interrupted"
    assert kinds(executor, [run(tmp_path / "good")]) == ["done", "end"]
    assert not executor.stop()
