"""Laws of the lease: no run is made by two processes at once, and a process that was asleep delivers nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from builders import make_run_spec
from tunewise.errors import StudyError
from tunewise.records import RunRecord
from tunewise.storage import disk, lease
from tunewise.storage.lease import LEASE, LOST_LEASE, LostLeaseError, held, nonce_of, take, wait_until_free
from tunewise.storage.ledger import RECORD, Ledger
from tunewise.storage.lock import this_process

SPEC = make_run_spec()
RUN = RunRecord(run_id=SPEC.run_id, spec=SPEC, status="done")
# A worker on another machine, of which nobody here knows whether it lives: it adopts a lease, and delivers when asked.
WORKER = """
import sys
from pathlib import Path
from tunewise.records import RunRecord
from tunewise.storage import lease
from tunewise.storage.ledger import Ledger

lease.BEAT_SECONDS = 0.05
lease.this_process = lambda: {"host": "elsewhere", "process": 1, "born": 1.0}
folder, record = Path(sys.argv[1]), RunRecord.model_validate_json(sys.argv[3])
with lease.held(folder, sys.argv[2]) as own:
    print("works", flush=True)
    sys.stdin.readline()
    Ledger(folder.parent.parent).finish(record, own)
    print("delivered", flush=True)
"""


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 0.5)
    monkeypatch.setattr(lease, "PAUSE_SECONDS", 0.01)
    made = Ledger(tmp_path / "study")
    made.create()
    return made


@pytest.fixture
def worker(ledger: Ledger) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        folder = ledger.begin(SPEC)
        arguments = [str(folder), str(nonce_of(folder)), RUN.model_dump_json()]
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", WORKER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        assert read(started[-1]) == "works"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("deliver\n")
    process.stdin.flush()


def test_a_worker_that_beats_keeps_its_run_however_long(
    ledger: Ledger, worker: Callable[[], "subprocess.Popen[str]"]
) -> None:
    process = worker()
    waited: list[bool] = []
    thread = threading.Thread(target=lambda: waited.append(wait_until_free(ledger.run_folder(SPEC.run_id))))
    thread.start()
    thread.join(3 * lease.EXPIRY_SECONDS)
    assert not waited, "it beats"
    ask(process)
    assert read(process) == "delivered"
    thread.join(20)
    assert waited == [True], "then it is silent"
    assert ledger.record(SPEC.run_id) is not None


def test_a_worker_that_slept_past_its_lease_ends_when_it_wakes_and_delivers_nothing(
    ledger: Ledger, worker: Callable[[], "subprocess.Popen[str]"]
) -> None:
    process = worker()
    process.send_signal(signal.SIGSTOP)
    folder = ledger.begin(SPEC)  # waits until the lease has expired
    content = (folder / LEASE).read_bytes()
    process.send_signal(signal.SIGCONT)
    ask(process)
    assert process.wait(30) in (LOST_LEASE, 1), "by its beat, or by what it tried to store"
    assert read(process) == ""
    assert not (folder / RECORD).exists()
    assert (folder / LEASE).read_bytes() == content, "the lease of the other one is untouched"


def test_a_process_of_this_machine_that_is_dead_is_not_waited_for(ledger: Ledger) -> None:
    folder = ledger.begin(SPEC)
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    (folder / LEASE).write_text(json.dumps({**this_process(), "process": dead.pid, "nonce": "n"}), encoding="utf-8")
    assert not wait_until_free(folder)
    parent = {"process": os.getppid(), "born": psutil.Process(os.getppid()).create_time()}
    (folder / LEASE).write_text(json.dumps({**this_process(), **parent, "nonce": "n"}), encoding="utf-8")
    assert wait_until_free(folder) != wait_until_free(folder.parent), "a living one is, until its lease expires"


@pytest.mark.parametrize("junk", ["", "{", "[1]", '"x"', "{}", '{"host": 3}'])
def test_a_lease_that_cannot_be_read_expires_like_any_other(ledger: Ledger, junk: str) -> None:
    folder = ledger.begin(SPEC)
    (folder / LEASE).write_text(junk, encoding="utf-8")
    assert nonce_of(folder) is None
    assert wait_until_free(folder)
    take(folder)
    assert nonce_of(folder)


def test_a_job_that_comes_too_late_is_refused(ledger: Ledger) -> None:
    folder = ledger.begin(SPEC)
    nonce = nonce_of(folder)
    assert nonce is not None
    with held(folder, nonce) as own:
        own.require()
    take(folder)
    with pytest.raises(LostLeaseError, match="another process makes the run"), held(folder, nonce):
        pass
    with pytest.raises(StudyError), held(folder.parent, nonce):
        pass


@pytest.mark.parametrize("when", ["create", "fill", "set_mode", "sync", "rename"])
def test_whenever_the_run_is_begun_anew_while_a_record_is_stored_only_one_of_the_two_goes_on(
    ledger: Ledger, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each operation of `finish`, somebody else begins the run: no record is there while that one works."""
    folder = ledger.begin(SPEC)
    nonce = nonce_of(folder)
    assert nonce is not None
    true = getattr(disk, when)
    begun: list[Path] = []

    def interrupted(path: Path, *more: object) -> object:
        if path.name.startswith(RECORD) and not begun:
            begun.append(path)
            ledger.begin(SPEC)
        return true(path, *more)

    with held(folder, nonce) as own:
        monkeypatch.setattr(disk, when, interrupted)
        with pytest.raises(StudyError):
            ledger.finish(RUN, own)
    assert begun
    assert not (folder / RECORD).exists()
    assert nonce_of(folder) != nonce
