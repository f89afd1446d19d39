"""The worker command: what it takes, how its end is told, and that it makes the run that every other place makes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import make_run_spec
from desk.conftest import study_spec
from fake_executor import FakeExecutor
from lab_fixtures import small_model
from laws.small_studies import small_study
from tunewise.errors import MachineError, StudyError
from tunewise.executors import worker
from tunewise.executors.base import GreetJob, Job, PrepareJob, RunJob
from tunewise.executors.handshake import CLOCK_SECONDS, greet
from tunewise.executors.worker import read_job, work, write_job
from tunewise.records import events
from tunewise.records.events import Event, unheard
from tunewise.records.worker import Worker, versions
from tunewise.storage.lease import nonce_of
from tunewise.storage.ledger import Ledger

SPEC = make_run_spec()
KEY = "0123456789abcdef"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "study")
    made.create()
    return made


def run_job(ledger: Ledger) -> RunJob:
    folder = ledger.begin(SPEC)
    return RunJob(
        folder=folder, data=ledger.data_folder(KEY), checkpoint_seconds=9, limit_seconds=None, max_tokens=5,
        lease=nonce_of(folder),
    )  # fmt: skip


def test_a_job_is_the_same_once_it_was_in_a_file_wherever_the_folder_is_mounted(ledger: Ledger) -> None:
    jobs: list[Job] = [
        run_job(ledger),
        PrepareJob(study=study_spec(), root=ledger.folder / "data"),
        GreetJob(probe=ledger.folder / "jobs" / f"probe-{KEY}"),
    ]
    paths = [write_job(ledger.folder, job) for job in jobs]
    assert [read_job(path) for path in paths] == jobs
    assert str(ledger.folder) not in "".join(path.read_text(encoding="utf-8") for path in paths)
    moved = ledger.folder.rename(ledger.folder.with_name("mounted elsewhere"))
    again = read_job(moved / "jobs" / paths[0].name)
    assert isinstance(again, RunJob)
    assert again.folder == moved / "runs" / SPEC.run_id


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("folder", "../../other/runs/0123456789abcdef", "folder is '../../other"),
        ("folder", "runs/..", "must match runs/"),
        ("folder", "runs/" + KEY, "spec.json"),
        ("folder", "runs/0123456789ABCDEF", "must match"),
        ("data", "/etc", "data is '/etc'"),
        ("data", "data/0123456789abcdef\n", "must match"),
        ("max_tokens", "many", "max_tokens: Input should be a valid integer"),
        ("job", "pickle", "not a valid job file"),
        ("command", "rm -rf /", "command: Extra inputs are not permitted"),
    ],
)
def test_every_name_in_a_job_file_is_checked(ledger: Ledger, name: str, given: str, words: str) -> None:
    path = write_job(ledger.folder, run_job(ledger))
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), name: given}), encoding="utf-8")
    with pytest.raises(StudyError, match=words.replace(".", r"\.")):
        read_job(path)


def test_a_job_file_stands_in_its_study_and_its_run_is_that_of_its_folder(ledger: Ledger, tmp_path: Path) -> None:
    path = write_job(ledger.folder, run_job(ledger))
    for elsewhere in (tmp_path / "job.json", tmp_path / "jobs" / "job.json"):
        elsewhere.parent.mkdir(exist_ok=True)
        elsewhere.write_bytes(path.read_bytes())
        with pytest.raises(StudyError, match="must be in the folder jobs of a study folder"):
            read_job(elsewhere)
    other = SPEC.replace(seed=77).model_dump_json()
    (ledger.run_folder(SPEC.run_id) / "spec.json").write_text(other, encoding="utf-8")
    with pytest.raises(StudyError, match="but its folder is named"):
        read_job(path)
    path.write_bytes(b"\x80\x04\x95")  # a pickle
    with pytest.raises(StudyError):
        read_job(path)
    path.unlink()
    path.symlink_to(tmp_path / "job.json")
    with pytest.raises(StudyError):
        read_job(path)


ENDS: dict[int, list[Event]] = {
    worker.DONE: [events.Done()],
    worker.FAILED: [events.Crashed(message="KeyError", log="log.txt"), events.End(code=1)],
    worker.REFUSED: [events.Refused(kind="DataError", message="no rows"), events.End(code=2)],
    worker.STOPPED: [events.Stopping(), events.Stopped(message="stopped after step 3")],
    worker.TIMED_OUT: [events.TimedOut(), events.End(code=4)],
    worker.OUT_OF_MEMORY: [events.OutOfMemory(message="40 GiB", log="log.txt"), events.End(code=1)],
}


@pytest.mark.parametrize("status", ENDS)
def test_the_exit_status_tells_how_it_ended(status: int, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LocalExecutor", lambda: FakeExecutor(lambda job: ENDS[status]))
    told: list[Event] = []
    assert work(run_job(ledger), told.append) == status
    assert told[: len(ENDS[status])] == ENDS[status]


# --- the handshake


def greeted(ledger: Ledger, **changes: Any) -> None:
    def answer(job: Job) -> list[Event]:
        assert isinstance(job, GreetJob)
        content: dict[str, Any] = {
            "host": "node-7", "process": 1, "python": ".".join(map(str, sys.version_info[:3])), "versions": versions(),
            "num_gpus": 0, "clock": time.time(), "nonce": job.probe.read_text(encoding="utf-8"),
        }  # fmt: skip
        return [events.Greeted(worker=Worker.model_validate({**content, **changes}))]

    greet(FakeExecutor(answer), ledger.folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonce": ""}, "worker node-7 does not see the study folder"),
        ({"nonce": "0" * 32}, "does not see the study folder"),
        ({"versions": {**versions(), "torch": "1.0"}}, r"other versions: torch 1\.0 \(here 2"),
        ({"versions": {}}, "torch missing .*numerics missing"),
        ({"python": "2.7.18"}, r"python 2\.7\.18 \(here 3"),
        ({"clock": -3600}, "the clock of worker node-7 differs from the one here by 3,"),
        ({"clock": 10 * CLOCK_SECONDS}, "Set both by NTP"),
    ],
)
def test_a_worker_that_cannot_make_the_runs_of_this_study_is_refused_by_name(
    ledger: Ledger, changes: dict[str, Any], words: str
) -> None:
    greeted(ledger)
    if "clock" in changes:  # so far from the time of the test, which is not that of its collection
        changes = {"clock": time.time() + changes["clock"]}
    with pytest.raises(MachineError, match=words):
        greeted(ledger, **changes)
    assert not list((ledger.folder / "jobs").iterdir())


# --- by hand


@pytest.mark.slow
def test_a_run_that_is_made_by_hand_is_the_one_that_every_other_place_makes(tmp_path: Path) -> None:
    small_model("llama", tmp_path / "model")
    arms = {"full": {"method": "full", "learning_rate": 1e-3}}
    first, second = (small_study(tmp_path / name, tmp_path / "model", "sft", arms) for name in ("a", "b"))
    spec = first.waiting()[1]
    expected = first.run(spec)
    job = RunJob(
        folder=second.ledger.begin(spec), data=second.data_folder, checkpoint_seconds=9, limit_seconds=None,
        max_tokens=spec.train.tokens_at_once, lease=nonce_of(second.ledger.run_folder(spec.run_id)),
    )  # fmt: skip
    path, told = write_job(second.ledger.folder, job), tmp_path / "events.jsonl"
    give: Callable[[], int] = lambda: subprocess.run(  # noqa: E731 - twice the same
        [sys.executable, "-m", "tunewise", "worker", str(path), "--events", str(told)],
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).returncode  # fmt: skip
    assert give() == worker.DONE
    made = second.ledger.record(spec.run_id)
    assert made is not None
    assert made.evaluations == expected.evaluations
    assert made.files["scores.parquet"] == expected.files["scores.parquet"]
    lines = [json.loads(line)["event"] for line in told.read_text(encoding="utf-8").splitlines()]
    assert lines.count("step") == 24
    assert lines[-2:] == ["done", "end"]
    second.ledger.begin(spec)  # as another driver does
    assert give() == worker.REFUSED, "a job whose lease is gone comes too late"
    assert greet_by_hand(second.ledger) == {"done": True}


def greet_by_hand(ledger: Ledger) -> dict[str, bool]:
    probe = ledger.folder / "jobs" / f"probe-{KEY}"
    probe.write_text("n", encoding="utf-8")
    job = read_job(write_job(ledger.folder, GreetJob(probe=probe)))
    return {"done": work(job, unheard) == worker.DONE}
