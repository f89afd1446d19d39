"""Laws of the lock: one command at a time on a study folder, and no dead one keeps the next one out."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunewise.errors import StudyError
from tunewise.storage.lock import LOCK, exclusive, reporting

HOLD = """
import subprocess, sys, time
from pathlib import Path
from tunewise.storage.lock import exclusive

with exclusive(Path(sys.argv[1])) as handle:
    worker = [sys.executable, "-c", "import time; time.sleep(60)"]
    with_worker = len(sys.argv) > 2
    print(subprocess.Popen(worker, pass_fds=(handle,)).pid if with_worker else "held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(folder: Path, *more: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Another process that holds the lock, and what it said."""
    command = [sys.executable, "-c", HOLD, str(folder), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_the_second_command_is_told_who_holds_the_folder_and_stops(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        with pytest.raises(StudyError) as refused, exclusive(tmp_path):
            pass
        assert f"process {process.pid} on {os.uname().nodename}" in str(refused.value)
        assert f"{tmp_path}" in str(refused.value)
    with exclusive(tmp_path):  # killed: nobody has to clean up
        pass


def test_a_lock_is_free_once_it_is_left_also_through_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path):
        _ = 1 / 0
    with exclusive(tmp_path), pytest.raises(StudyError), exclusive(tmp_path):
        pass


def test_the_worker_of_a_dead_command_keeps_the_next_one_waiting_until_it_is_gone(tmp_path: Path) -> None:
    with holder(tmp_path, "with a worker") as (process, worker):
        process.kill()
        process.wait()
        with pytest.raises(StudyError, match=str(process.pid)), exclusive(tmp_path, patience=0.2):
            pass
        os.kill(int(worker), signal.SIGKILL)
        begun = time.monotonic()
        with exclusive(tmp_path):
            assert time.monotonic() - begun < 10


def test_a_number_that_another_process_has_by_now_is_no_holder(tmp_path: Path) -> None:
    with holder(tmp_path, "with a worker") as (process, worker):
        process.kill()
        process.wait()
        path = tmp_path / LOCK
        said = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({**said, "process": os.getpid(), "born": said["born"] - 100}), "utf-8")
        os.kill(int(worker), signal.SIGKILL)
        with exclusive(tmp_path):
            pass


def test_what_stands_in_a_lock_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    with holder(tmp_path):
        (tmp_path / LOCK).write_text(json.dumps({"host": "\x1b[2Jelsewhere", "command": "rm\n-rf"}), "utf-8")
        with pytest.raises(StudyError) as refused, exclusive(tmp_path):
            pass
    assert "?[2Jelsewhere" in str(refused.value)
    assert "rm?-rf" in str(refused.value)


def test_a_lock_that_holds_rubbish_is_taken_over(tmp_path: Path) -> None:
    for content in ("", "[1]", "\0", "{"):
        (tmp_path / LOCK).write_text(content, "utf-8")
        with exclusive(tmp_path):
            pass


def test_a_report_waits_for_another_one_and_not_for_a_run(tmp_path: Path) -> None:
    with exclusive(tmp_path), reporting(tmp_path):
        with pytest.raises(StudyError, match="in use"), reporting(tmp_path, patience=0.1):
            pass
        ended: list[str] = []
        second = threading.Thread(target=lambda: _report(tmp_path, ended))
        second.start()
        ended.append("first")
    second.join()
    assert ended == ["first", "second"]


def _report(folder: Path, ended: list[str]) -> None:
    with reporting(folder):
        ended.append("second")
