"""Runs as jobs of Slurm: what is handed on to it, what is refused, and what happens to jobs that are lost."""

import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from chaos_study import chaos_study, made_alike

from on_slurm import fake_slurm
from tunewise.commands import compare as driver
from tunewise.errors import MachineError, SpecError
from tunewise.executors.base import LostPlaceError, RunJob
from tunewise.executors.slurm import client, queue
from tunewise.executors.slurm.client import SlurmExecutor
from tunewise.executors.slurm.queue import SlurmQueue, options, prepared
from tunewise.records import events
from tunewise.spec import MachineSpec, SlurmSpec
from tunewise.spec.reading import parse_study

ALL = {
    "partition": "gpu,big", "account": "a_1", "qos": "low", "constraint": "a100&nvlink", "time": "1-12:00:00",
    "memory": "32G", "gpus_per_run": 1,
}  # fmt: skip


def machine(**content: object) -> MachineSpec:
    return MachineSpec.model_validate({"executor": "slurm", **content})


def run(folder: Path) -> RunJob:
    return RunJob(folder=folder, data=folder, checkpoint_seconds=300, limit_seconds=None, max_tokens=1)


def test_the_options_of_a_study_reach_sbatch() -> None:
    assert options(SlurmSpec.model_validate(ALL), 4) == [
        "--ntasks=1", "--partition=gpu,big", "--account=a_1", "--qos=low", "--constraint=a100&nvlink",
        "--time=1-12:00:00", "--mem=32G", "--gres=gpu:1", "--cpus-per-task=4",
    ]  # fmt: skip
    assert options(SlurmSpec(), None) == ["--ntasks=1"]


@pytest.mark.parametrize(
    "content",
    [
        {"partition": "a b"}, {"partition": "--output=/etc/x"}, {"partition": ""}, {"qos": "$(id)"}, {"account": "a;b"},
        {"constraint": "a\nb"}, {"time": "soon"}, {"time": 7200}, {"memory": "much"}, {"gpus_per_run": 2},
        {"output": "/x"},
    ],
)  # fmt: skip
def test_a_study_hands_nothing_else_to_sbatch(content: dict[str, object]) -> None:
    study = {"name": "s", "data": {"train": "t"}, "machine": {"executor": "slurm", "slurm": content}}
    with pytest.raises(SpecError, match=r"machine\.slurm"):
        parse_study(study, "s.yaml")


def test_the_number_of_workers_is_given_and_the_threads_are_those_of_the_folder() -> None:
    with pytest.raises(SpecError, match="workers is auto.*Give a number"):
        prepared(machine(workers="auto"), None)
    assert prepared(machine(), None).threads == 1
    assert prepared(machine(), 3).threads == 3
    assert prepared(machine(threads=2), None).threads == 2
    assert prepared(machine(slurm={"gpus_per_run": 1}), None).threads is None


def test_a_machine_without_slurm_and_a_refusal_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = chaos_study(tmp_path)
    study = study.replace(machine=study.machine.replace(executor="slurm", slurm=SlurmSpec(partition="none")))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(SpecError, match="no program scancel here.*login node"):
            driver.compare(study, tmp_path / "s")
    fake_slurm(monkeypatch, tmp_path)
    words = "Slurm refused `sbatch`: .*invalid partition specified: none.*machine.slurm"
    with pytest.raises(MachineError, match=words):
        driver.compare(study, tmp_path / "s")


def test_a_job_that_ends_without_a_word_is_a_lost_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_slurm(monkeypatch, tmp_path)
    monkeypatch.setattr(client, "LATE_SECONDS", 0.5)
    monkeypatch.setattr(queue, "WORKER", ("sh", "-c", "echo no such python >&2; exit 127"))
    with SlurmExecutor(SlurmQueue(tmp_path, machine())) as place:
        with pytest.raises(LostPlaceError, match=r"job 1 of Slurm ended.*FAILED; its last line: no such python"):
            list(place.submit([run(tmp_path / "runs")]))
        with pytest.raises(LostPlaceError, match="job 2"):
            list(place.submit([run(tmp_path / "runs")]))
    assert not list((tmp_path / "jobs").iterdir())


def test_a_run_that_slurm_stops_goes_back_to_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its time limit a run saves and stops; nobody asked the study to stop."""
    fake_slurm(monkeypatch, tmp_path)
    told = [events.Stopping(), events.Stopped(message="saved"), events.End(code=0)]
    (tmp_path / "told").write_text("".join(event.model_dump_json() + "\n" for event in told), encoding="utf-8")
    monkeypatch.setattr(queue, "WORKER", ("sh", "-c", f'cat {tmp_path}/told > "$2"'))
    place = SlurmExecutor(SlurmQueue(tmp_path, machine()))
    with place, pytest.raises(LostPlaceError, match="Slurm stopped job 1 before its run was done"):
        list(place.submit([run(tmp_path / "runs")]))


def test_a_job_that_waits_is_cancelled_by_a_stop_and_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fake_slurm(monkeypatch, tmp_path)
    monkeypatch.setenv("FAKE_SLURM_FULL", "1")
    place = SlurmExecutor(SlurmQueue(tmp_path, machine()))

    def stop() -> None:
        while not list(found.glob("*.waits")) or not place.stop():
            time.sleep(0.05)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        list(place.submit([run(tmp_path / "runs")]))
    assert not list(found.glob("*.waits"))
    SlurmQueue(tmp_path, machine()).submit(tmp_path / "jobs" / "left.json")
    assert len(client.openers(tmp_path, machine(workers=3))) == 3
    assert not list(found.glob("*.waits")), "left by a command that died"


def test_a_stop_while_a_job_is_being_submitted_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fake_slurm(monkeypatch, tmp_path)
    monkeypatch.setenv("FAKE_SLURM_FULL", "1")
    place = SlurmExecutor(SlurmQueue(tmp_path, machine()))
    submit = place.queue.submit

    def stopped(path: Path) -> str:
        number = submit(path)
        assert place.stop()
        return number

    monkeypatch.setattr(place.queue, "submit", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(place.submit([run(tmp_path / "runs")]))
    assert not list(found.glob("*.waits"))


@pytest.mark.slow
def test_a_study_on_slurm_that_loses_a_job_has_the_records_of_one_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 33 over Slurm."""
    found = fake_slurm(monkeypatch, tmp_path)
    monkeypatch.setattr(client, "LATE_SECONDS", 1.0)
    monkeypatch.setattr(client, "PAUSE_SECONDS", 0.05)
    study = chaos_study(tmp_path)
    study = study.replace(train=study.train.replace(max_steps=40))  # long enough to be killed while it lasts
    driver.compare(study, tmp_path / "here")
    moved: list[str | None] = []

    def lose(event: events.Event) -> None:
        if isinstance(event, events.Step) and not moved:
            for file in found.glob("*.process"):
                with suppress(psutil.NoSuchProcess):
                    for process in psutil.Process(int(file.read_text(encoding="utf-8"))).children(recursive=True):
                        process.kill()
        if isinstance(event, events.Moved):
            moved.append(event.run)

    on_slurm = study.replace(machine=study.machine.replace(executor="slurm", workers=2))
    driver.compare(on_slurm, tmp_path / "slurm", lose)
    assert moved, "a run was made again"
    assert made_alike(tmp_path / "slurm") == made_alike(tmp_path / "here")
