"""What becomes of a run whose process ends before its time."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import make_run_spec
from fake_executor import FakeExecutor
from tunewise.executors import attempts
from tunewise.executors.attempts import Attempts
from tunewise.executors.base import Job, RunJob
from tunewise.lab.train.memory import is_out_of_memory
from tunewise.records import RunRecord, events
from tunewise.records.events import Event
from tunewise.spec import BaseMethod, MachineSpec, RunSpec
from tunewise.storage.ledger import Ledger


def spec() -> RunSpec:
    return make_run_spec(arm="base", role="base", method=BaseMethod(), learning_rate=None, score_splits=("test",))


def run(ledger: Ledger, *told: Event, asked: list[int] | None = None, devices: int = 1) -> RunRecord:
    """The record of a run whose processes report these events and write no record; `asked` gets their max_tokens."""
    waiting = iter(told)

    def answer(job: Job) -> Iterator[Event]:
        for event in waiting:
            yield event
            if isinstance(event, events.End):
                return

    executor = FakeExecutor(answer)
    record = Attempts(executor, ledger, MachineSpec()).run(spec().replace(devices=devices), Path("data"))
    if asked is not None:
        asked += [job.max_tokens for job in executor.jobs if isinstance(job, RunJob)]
    return record


MEMORY = events.OutOfMemory(message="OutOfMemoryError: 40 GiB", log="log.txt")
KILLED = events.End(code=-9)


def test_a_run_without_memory_is_tried_twice_before_it_is_said_not_to_fit(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.create()
    twice = (MEMORY, events.End(code=1))
    first, second = run(ledger, *twice), run(ledger, *twice)
    assert (first.status, first.attempts) == ("failed", 1)
    assert (second.status, second.attempts) == ("out-of-memory", 2)
    assert second.message
    assert "OutOfMemory" in second.message


def test_a_run_in_which_a_library_crashes_says_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.create()
    assert run(ledger, events.End(code=-signal.SIGSEGV)).message == "a library crashed (SIGSEGV)"
    ended = run(ledger, events.End(code=-signal.SIGTERM)).message  # somebody else's signal
    assert ended == "the process ended without a message"


def test_a_run_that_the_system_kills_for_memory_is_tried_with_half_the_tokens_down_to_an_eighth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = iter(range(100))  # one more whenever somebody asks
    monkeypatch.setattr(attempts, "memory_kills", lambda: next(kills))
    ledger = Ledger(tmp_path)
    ledger.create()
    asked: list[int] = []
    record = run(ledger, *[KILLED] * 5, asked=asked)
    assert asked == [2048, 1024, 512, 256]
    assert (record.status, record.attempts) == ("out-of-memory", 4)


def test_a_run_on_several_devices_is_tried_with_half_the_tokens_when_memory_runs_out_on_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.create()
    asked: list[int] = []
    record = run(ledger, *[MEMORY, events.End(code=1)] * 5, asked=asked, devices=2)
    assert asked == [2048, 1024, 512, 256]
    assert (record.status, record.attempts) == ("out-of-memory", 4)


def test_a_run_that_somebody_killed_is_made_again_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "memory_kills", lambda: 3)
    ledger = Ledger(tmp_path)
    ledger.create()
    first, second = run(ledger, KILLED, KILLED), run(ledger, KILLED)
    assert (first.status, first.attempts, first.message) == ("failed", 1, "the process was killed")
    assert (second.status, second.attempts) == ("failed", 2)


def test_what_was_seen_on_the_machine_of_the_run_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = iter(range(100))
    monkeypatch.setattr(attempts, "memory_kills", lambda: next(kills))
    ledger = Ledger(tmp_path)
    ledger.create()
    asked: list[int] = []
    elsewhere = events.End(code=-signal.SIGKILL, is_short_of_memory=False)
    assert run(ledger, elsewhere, asked=asked).status == "failed"
    assert len(asked) == 1, "memory that ran out here meanwhile was not the run's"


def test_a_crash_says_nothing_of_memory_however_often(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.create()
    crash = (events.Crashed(message="KeyError: 'x'", log="log.txt"), events.End(code=1))
    assert [run(ledger, *crash).status for _ in range(3)] == ["failed"] * 3


def test_memory_is_told_from_other_errors() -> None:
    class OutOfMemoryError(RuntimeError):  # as torch names it
        pass

    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(OutOfMemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 17.0 GB)"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_a_run_slower_than_its_limit_is_timed_out_and_not_tried_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.create()
    record = run(ledger, events.TimedOut(), events.End(code=4))
    assert (record.status, record.attempts) == ("timed-out", 1)
    assert record.message is not None
    assert "machine.run_limit_seconds" in record.message


def test_a_run_that_was_asked_to_stop_interrupts_the_study_and_has_no_record(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.create()
    with pytest.raises(KeyboardInterrupt):
        run(ledger, events.Stopped(message="stopped after step 3"), events.End(code=0))
    assert ledger.records() == []
