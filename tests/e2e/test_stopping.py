"""A study that is stopped, terminated and killed: the command ends as it should, and the same command finishes it."""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

pytestmark = pytest.mark.slow

STOPS_WITHIN = 10  # seconds
NEXT = "next: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a study file lies, whose name needs quotation marks."""
    folder = tmp_path_factory.mktemp("stopping")
    rows = [{"prompt": f"count[{n}], twice", "completion": f"There are {n} and {2 * n}."} for n in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    study: dict[str, Any] = {
        "name": "small",
        "data": {"train": "rows.jsonl"},
        "arms": {"full": {"method": "full"}},
        "train": {"max_steps": 60, "batch_size": 4, "evaluations": 1},
        "tuning": {"rates": 1, "cap": 1},
        "looks": [1],
        "forgetting": {"tokens": 0},
        "samples": {"count": 0},
        "machine": {"threads": 1},
    }
    (folder / "my study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return folder


@contextmanager
def training(folder: Path, line: str) -> Iterator["subprocess.Popen[str]"]:
    """The command, whose worker has begun to load the first run that trains."""
    program, *arguments = shlex.split(line)
    assert program == "tunewise"
    begun = time.time()
    with subprocess.Popen(
        [sys.executable, "-m", "tunewise", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        command = psutil.Process(process.pid)
        while not any(path.stat().st_mtime > begun and trains(path) for path in folder.rglob("spec.json")) or (
            len(command.children(recursive=True)) < 2  # the server, and the worker that it forks for the run
        ):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        yield process


def trains(path: Path) -> bool:
    return json.loads(path.read_text(encoding="utf-8"))["learning_rate"] is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_and_prints_the_command_that_continues(folder: Path, number: signal.Signals) -> None:
    with training(folder, "tunewise compare 'my study.yaml'") as process:
        process.send_signal(number)
        said, complained = process.communicate(timeout=STOPS_WITHIN + 2)
    assert process.returncode == 130, complained
    assert "stopped after step" in said
    assert complained.splitlines()[-1] == f"{NEXT}tunewise compare 'my study.yaml'"
    assert "Traceback" not in said + complained
    (checkpoint,) = folder.rglob("checkpoint/step-*.safetensors")
    assert checkpoint.is_file()


def test_a_second_signal_ends_it_at_once_and_a_kill_leaves_no_worker(folder: Path) -> None:
    with training(folder, "tunewise compare 'my study.yaml'") as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=STOPS_WITHIN)
    assert process.returncode == 130
    with training(folder, "tunewise compare 'my study.yaml'") as process:
        workers += psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
    assert len(workers) >= 4, "a server and its worker, twice"
    _, alive = psutil.wait_procs(workers, timeout=STOPS_WITHIN)
    assert not alive


def test_the_same_command_then_finishes_the_study_although_its_worker_is_killed(folder: Path) -> None:
    with training(folder, "tunewise compare 'my study.yaml'") as process:
        (server,) = psutil.Process(process.pid).children()
        (worker,) = server.children()
        worker.kill()
        _, complained = process.communicate(timeout=300)
    assert process.returncode == 0, complained
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("record.json")]
    assert {record["status"] for record in records} == {"done"}
    assert max(record["usage"]["num_continued"] for record in records) >= 2
    assert not list(folder.rglob("checkpoint"))
    assert not list(folder.rglob("*.tmp"))
