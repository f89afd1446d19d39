"""Attempts at a run: how many, with how many tokens at once, and the status of a run without a record."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunewise.errors import AGAIN, TunewiseError
from tunewise.executors.base import Executor, RunJob
from tunewise.records import LOST, MAX_ATTEMPTS, RunRecord, Status, events
from tunewise.records.events import Event, Listener, of_run, unheard
from tunewise.spec import MachineSpec, RunSpec
from tunewise.storage.lease import nonce_of, release, wait_until_free
from tunewise.storage.ledger import Ledger

KILLED = -9  # exit status of a process that Linux ends because memory ran out
SMALLEST_SHARE = 8  # after memory kills a run is tried with at least 1/8 of train.micro_batch_tokens


@dataclass(frozen=True)
class Attempts:
    """How runs are attempted: executor, folder, limits and listener."""

    executor: Executor
    ledger: Ledger
    machine: MachineSpec
    listener: Listener = unheard
    is_crowded: Callable[[str], bool] = lambda run_id: False  # whether another run shared the machine with this one

    def run(self, spec: RunSpec, data_folder: Path) -> RunRecord:
        """Stored record of the run. A run that crashed is `failed`, never an exception.

        A run for which memory ran out twice, once without another run beside it, is `out-of-memory`; one slower than
        its limit is `timed-out`. Raises KeyboardInterrupt if the run was asked to stop; its folder holds what it saved.
        """
        outlived = wait_until_free(self.ledger.run_folder(spec.run_id))  # a worker that outlived its driver
        before = self.ledger.record(spec.run_id)
        if outlived and before and before.status not in LOST:
            return before
        attempts, max_tokens = before.attempts + 1 if before else 1, spec.train.tokens_at_once
        end = self._attempt(spec, data_folder, max_tokens)
        end.is_crowded = self.is_crowded(spec.run_id)
        while end.has_too_many_tokens and SMALLEST_SHARE * max_tokens > spec.train.tokens_at_once:
            attempts, max_tokens = attempts + 1, max(1, max_tokens // 2)
            self.listener(events.Halved(run=spec.run_id, max_tokens=max_tokens))
            end = self._attempt(spec, data_folder, max_tokens)
        record = self.ledger.record(spec.run_id)
        if record is None:
            if end.is_wordless:
                raise TunewiseError(f"run {spec.run_id} ended without a result or a reason. {AGAIN}")
            lost = RunRecord(
                run_id=spec.run_id, spec=spec, status=end.status(attempts), message=end.message, attempts=attempts
            )
            self.ledger.finish(lost)
            record = self.ledger.record(spec.run_id)
        assert record is not None, "a finished run has a record"
        return record

    def _attempt(self, spec: RunSpec, data_folder: Path, max_tokens: int) -> "_End":
        """How one process with the run ended. The run's folder holds what it begins or resumes with."""
        folder = self.ledger.begin(spec)
        job = RunJob(
            folder=folder,
            data=data_folder,
            checkpoint_seconds=self.machine.checkpoint_seconds,
            limit_seconds=self.machine.run_limit_seconds,
            max_tokens=max_tokens,
            devices=spec.devices,
            lease=nonce_of(folder),
        )
        end = _End(kills_before=memory_kills(), is_divided=spec.devices > 1)
        for event in self.executor.submit([job]):
            end.hear(event)
            self.listener(of_run(event, spec.run_id))
        release(folder)
        if end.is_stopped:
            raise KeyboardInterrupt
        return end


def memory_kills() -> int | None:
    """Number of processes that the system has killed for memory since it started; None if it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def with_cause(end: events.End, kills_before: int | None) -> events.End:
    """The end of a killed process of this machine with its cause, if nobody has noted one closer to the process.

    `kills_before`: memory_kills() before its job.
    """
    if end.code != KILLED or end.is_short_of_memory is not None:
        return end
    now = memory_kills()
    return end.replace(is_short_of_memory=now is None or kills_before is None or now > kills_before)


@dataclass
class _End:
    """How a run ended, from the last events of its process."""

    kills_before: int | None  # number of processes killed for memory before the run began
    is_divided: bool  # several processes made the run, which cannot halve a batch: they are in step no more
    message: str = "the process ended without a message"
    is_wordless: bool = False  # it ended with the exit status of success
    is_short_of_memory: bool = False
    is_killed_for_memory: bool = False
    is_timed_out: bool = False
    is_stopped: bool = False
    is_crowded: bool = False  # other runs may have needed the memory

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
                self.is_killed_for_memory = with_cause(event, self.kills_before).is_short_of_memory is not False
                self.message = "the process was killed" + (
                    ", probably because memory ran out" if self.is_killed_for_memory else ""
                )
            case events.End(crash=str() as crash):
                self.message = f"a library crashed ({crash})"
            case _:
                pass

    @property
    def has_too_many_tokens(self) -> bool:
        """Whether the run alone needed more memory than there is, and fewer tokens at once were not tried."""
        ran_out = self.is_killed_for_memory or (self.is_divided and self.is_short_of_memory)
        return ran_out and not self.is_crowded

    def status(self, attempts: int) -> Status:
        """Status of a run that left no record."""
        if self.is_timed_out:
            return "timed-out"
        if self.is_crowded:
            return "failed"
        if self.is_killed_for_memory or (self.is_short_of_memory and attempts >= MAX_ATTEMPTS):
            return "out-of-memory"
        return "failed"
