"""How often a run is tried, with how much at a time, and what it is called when it leaves no record."""

from dataclasses import dataclass
from pathlib import Path

from tunewise.errors import AGAIN, TunewiseError
from tunewise.executors.base import Executor, RunJob
from tunewise.records import MAX_ATTEMPTS, RunRecord, Status, events
from tunewise.records.events import Event, Listener, of_run, unheard
from tunewise.spec import MachineSpec, RunSpec
from tunewise.storage.ledger import Ledger

KILLED = -9  # the exit status by which Linux ends the process that takes the last of its memory
SMALLEST_SHARE = 8  # of train.micro_batch_tokens a run is tried with, where the system killed it for memory: an eighth


@dataclass(frozen=True)
class Attempts:
    """What runs are made with: where, by whom, within which limits, and who hears of it."""

    executor: Executor
    ledger: Ledger
    machine: MachineSpec
    listener: Listener = unheard

    def run(self, spec: RunSpec, data_folder: Path) -> RunRecord:
        """The record of the run, which is stored. A run that crashed is `failed`, never an exception; one that the
        machine had no memory for, twice, is `out-of-memory`, one slower than its limit `timed-out`.

        Raises KeyboardInterrupt where the run was asked to stop; what it saved lies in its folder.
        """
        before = self.ledger.record(spec.run_id)
        attempts, max_tokens = before.attempts + 1 if before else 1, spec.train.tokens_at_once
        end = self._attempt(spec, data_folder, max_tokens)
        while end.is_killed_for_memory and SMALLEST_SHARE * max_tokens > spec.train.tokens_at_once:
            attempts, max_tokens = attempts + 1, max(1, max_tokens // 2)
            self.listener(events.Halved(run=spec.run_id, max_tokens=max_tokens))
            end = self._attempt(spec, data_folder, max_tokens)
        record = self.ledger.record(spec.run_id)
        if record is None:
            if end.is_wordless:
                raise TunewiseError(f"run {spec.run_id} ended without a result and without a reason. {AGAIN}")
            lost = RunRecord(
                run_id=spec.run_id, spec=spec, status=end.status(attempts), message=end.message, attempts=attempts
            )
            self.ledger.finish(lost)
            record = self.ledger.record(spec.run_id)
        assert record is not None, "a finished run has a record"
        return record

    def _attempt(self, spec: RunSpec, data_folder: Path, max_tokens: int) -> "_End":
        """How one process with the run ended; what it begins or continues lies in the run's folder."""
        job = RunJob(
            folder=self.ledger.begin(spec),
            data=data_folder,
            checkpoint_seconds=self.machine.checkpoint_seconds,
            limit_seconds=self.machine.run_limit_seconds,
            max_tokens=max_tokens,
        )
        end = _End(kills_before=memory_kills())
        for event in self.executor.submit([job]):
            end.hear(event)
            self.listener(of_run(event, spec.run_id))
        if end.is_stopped:
            raise KeyboardInterrupt
        return end


def memory_kills() -> int | None:
    """How many processes the system has killed for want of memory since it started; None where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


@dataclass
class _End:
    """How a run ended, from what its process said last."""

    kills_before: int | None  # by the system for want of memory, before the run began
    message: str = "the process ended without a word"
    is_wordless: bool = False  # it ended as if all were done
    is_short_of_memory: bool = False
    is_killed_for_memory: bool = False
    is_timed_out: bool = False
    is_stopped: bool = False

    def hear(self, event: Event) -> None:
        """Take note of one event."""
        match event:
            case events.Refused() | events.Crashed():
                self.message, self.is_short_of_memory = event.message, False
            case events.OutOfMemory():
                self.message, self.is_short_of_memory = event.message, True
            case events.TimedOut():
                self.message, self.is_timed_out = "it was slower than machine.run_limit_seconds allows", True
            case events.Stopped():
                self.is_stopped = True
            case events.End(code=0):
                self.is_wordless = True
            case events.End(code=code) if code == KILLED:
                now = memory_kills()
                self.is_killed_for_memory = now is None or self.kills_before is None or now > self.kills_before
                self.message = "the process was killed" + (", likely for memory" if self.is_killed_for_memory else "")
            case _:
                pass

    def status(self, attempts: int) -> Status:
        """What a run that left no record is."""
        if self.is_timed_out:
            return "timed-out"
        if self.is_killed_for_memory or (self.is_short_of_memory and attempts >= MAX_ATTEMPTS):
            return "out-of-memory"
        return "failed"
