"""The other end of the server: hand it jobs, pass on what they report, return what they made."""

import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tunewise.errors import AGAIN, USER_ERRORS, MachineError, TunewiseError, refusal
from tunewise.executors.local.lifeline import stop_signals
from tunewise.inputs.import_path import PYTHON, safe_environment
from tunewise.records import MAX_ATTEMPTS, RunRecord, Status
from tunewise.records.plan import ArmPlan, PlanRequest, Speed, StudyPlan
from tunewise.spec import MachineSpec, RunSpec, StudySpec
from tunewise.storage.ledger import Ledger

KILLED = -9  # the exit status by which Linux ends the process that takes the last of its memory
SMALLEST_SHARE = 8  # of train.micro_batch_tokens a run is tried with, where the system killed it for memory: an eighth
SERVER = ("-m", "tunewise.executors.local.server")
GRACE_SECONDS = 9.0  # for a run that was asked to stop: it stops within 10 s, at the end of a step or at once
KEPT_LINES = 200  # of what the server prints, its libraries' warnings among it: told only where it fails

Listener = Callable[[dict[str, Any]], None]


class LabServer:
    """A started server. One job at a time, so that timed runs never share the machine.

    Inside `with`, a Ctrl-C or SIGTERM lets the run that is going on save and stop, then raises KeyboardInterrupt; a
    second one ends it where it is. `held` are handles that stay open as long as any process of the server lives.
    """

    is_stopping = False
    _job: str | None = None  # that is going on
    _timer: threading.Timer | None = None

    def __init__(self, machine: MachineSpec, held: Sequence[int] = ()) -> None:
        self.machine = machine
        self._signals = ExitStack()
        self._printed: deque[str] = deque(maxlen=KEPT_LINES)
        try:
            self.process, self._lifeline = _start(held)
            self._follower = threading.Thread(target=self._follow, daemon=True, name="lab server")
            self._follower.start()
        except (OSError, RuntimeError) as error:
            if message := refusal(error):
                raise MachineError(message) from error
            raise

    def _follow(self) -> None:
        """Keep what the server prints. Where it dies alone, end its run: nobody would hear what becomes of it."""
        assert self.process.stderr is not None
        self._printed.extend(self.process.stderr)
        if self.process.wait() != 0:
            self._kill()

    def __enter__(self) -> Self:
        self._signals.enter_context(stop_signals(self.stop))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._kill()
        if self._timer:
            self._timer.cancel()
        assert self.process.stdin is not None
        try:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()
        finally:  # also where one more Ctrl-C comes
            os.close(self._lifeline)
            self._signals.close()

    def stop(self) -> bool:
        """Ask the run that is going on to save and stop; False where none is, or it was asked before."""
        if self.is_stopping or self._job != "run":
            return False
        self.is_stopping = True
        os.write(self._lifeline, b"s")
        self._timer = threading.Timer(GRACE_SECONDS, self._kill)
        self._timer.daemon = True
        self._timer.start()
        return True

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # it may be what failed
            os.killpg(self.process.pid, signal.SIGKILL)

    def prepare(self, study: StudySpec, root: Path) -> str:
        """The key of the prepared data below `root`. Raises UserError for whatever is wrong with the study."""
        request = {"job": "prepare", "study": study.model_dump(mode="json"), "root": str(root)}
        key: str = self._result(request, "prepared", "preparing the data")["key"]
        return key

    def plan(self, study: StudySpec, folder: Path, request: PlanRequest) -> StudyPlan:
        """What the study will need; `folder` holds its prepared data, or is a place for it. Raises UserError."""
        job = {"job": "plan", "study": study.model_dump(mode="json"), "root": str(folder)}
        found = self._result({**job, "request": request.model_dump(mode="json")}, "planned", "planning")
        return StudyPlan.model_validate(found["plan"])

    def probe(self, study: StudySpec, folder: Path, arm: str, plan: ArmPlan) -> Speed:
        """The speed of an arm, planned in `folder`. Raises TunewiseError where it cannot be measured."""
        job = {"job": "probe", "study": study.model_dump(mode="json"), "root": str(folder), "arm": arm}
        found = self._result({**job, "plan": plan.model_dump(mode="json")}, "probed", "measuring the speed")
        return Speed.model_validate(found["speed"])

    def _result(self, request: dict[str, Any], name: str, doing: str) -> dict[str, Any]:
        """The event of that name. What a job says is read to its end, also where it fails: the rest is another's."""
        events = {event["event"]: event for event in self._do(request)}
        if error := events.get("error"):
            raise USER_ERRORS[error["kind"]](error["message"])
        if crash := events.get("crash") or events.get("memory"):
            raise TunewiseError(f"{doing} failed: {crash['message']} (all of it: {crash['log']})")
        if name not in events:
            raise TunewiseError(f"{doing} ended without a result: the process was killed, likely for memory.")
        return events[name]

    def run(self, spec: RunSpec, ledger: Ledger, data_folder: Path, listener: Listener) -> RunRecord:
        """The record of the run, which is stored. A run that crashed is `failed`, never an exception; one that the
        machine had no memory for, twice, is `out-of-memory`, one slower than its limit `timed-out`.

        Raises KeyboardInterrupt where the run was asked to stop; what it saved lies in its folder.
        """
        before = ledger.record(spec.run_id)
        attempts, max_tokens = before.attempts + 1 if before else 1, spec.train.tokens_at_once
        end = self._attempt(spec, ledger, data_folder, listener, max_tokens)
        while end.is_killed_for_memory and SMALLEST_SHARE * max_tokens > spec.train.tokens_at_once:
            attempts, max_tokens = attempts + 1, max(1, max_tokens // 2)
            listener({"run": spec.run_id, "event": "halved", "max_tokens": max_tokens})
            end = self._attempt(spec, ledger, data_folder, listener, max_tokens)
        record = ledger.record(spec.run_id)
        if record is None:
            if end.is_wordless:
                raise TunewiseError(f"run {spec.run_id} ended without a result and without a reason. {AGAIN}")
            status, message = end.status(attempts), end.message
            ledger.finish(RunRecord(run_id=spec.run_id, spec=spec, status=status, message=message, attempts=attempts))
            record = ledger.record(spec.run_id)
        assert record is not None, "a finished run has a record"
        return record

    def _attempt(self, spec: RunSpec, ledger: Ledger, data_folder: Path, listener: Listener, max_tokens: int) -> "_End":
        """How one process with the run ended; what it begins or continues lies in the run's folder."""
        request = {
            "job": "run",
            "folder": str(ledger.begin(spec)),
            "data": str(data_folder),
            "checkpoint_seconds": self.machine.checkpoint_seconds,
            "limit_seconds": self.machine.run_limit_seconds,
            "max_tokens": max_tokens,
        }
        end = _End(kills_before=memory_kills())
        for event in self._do(request):
            end.hear(event)
            listener({"run": spec.run_id, **event})
        if self.is_stopping or end.is_stopped:
            raise KeyboardInterrupt
        return end

    def _do(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self._job is None, "the job before this one was read to its end"
        self._job = request["job"]
        with suppress(BrokenPipeError):  # how the server ended is told below
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            event = _event(line)
            if event is None:
                continue
            if event["event"] == "end":
                self._job = None
            yield event
            if event["event"] == "end":
                return
        if self.is_stopping:  # it took too long
            raise KeyboardInterrupt
        raise self._end_of_server()

    def _end_of_server(self) -> TunewiseError:
        """Why the server is gone, in one message."""
        code = self.process.wait()
        self._follower.join(GRACE_SECONDS)
        if code < 0:
            name = signal.Signals(-code).name
            return MachineError(f"the process that runs the jobs was ended from outside ({name}). {AGAIN}")
        last = next((line.strip() for line in reversed(self._printed) if line.strip()), "it said nothing")
        if message := refusal(RuntimeError(last)):
            return MachineError(message)
        return TunewiseError(f"the process that runs the jobs ended (exit status {code}): {last}")


def _start(held: Sequence[int]) -> tuple["subprocess.Popen[str]", int]:
    """A server, and our end of its lifeline. Raises OSError where the system does not allow one more process."""
    read, lifeline = os.pipe()
    environment = {
        "OPENBLAS_NUM_THREADS": "1",  # numpy's threads would wait on the cores that torch's need
        **safe_environment(os.environ),
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for CUDA must not initialise it
        "PYTHONHASHSEED": "0",  # peft writes its sets of names in an order that would be another in every process
    }
    try:
        process = subprocess.Popen(
            [*PYTHON, *SERVER, str(read)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C reaches us alone; we end the server
            pass_fds=(read, *held),
        )
    finally:
        os.close(read)
    return process, lifeline


def _event(line: str) -> dict[str, Any] | None:
    """One event; None: the process that wrote it died within the line."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


@dataclass
class _End:
    """How a run ended, from what its process said last."""

    kills_before: int | None  # for want of memory, by the system, before the run began
    message: str = "the process ended without a word"
    is_wordless: bool = False  # it ended as if all were done
    is_short_of_memory: bool = False
    is_killed_for_memory: bool = False
    is_timed_out: bool = False
    is_stopped: bool = False

    def hear(self, event: dict[str, Any]) -> None:
        """Take note of one event."""
        if event["event"] in ("error", "crash", "memory"):
            self.message, self.is_short_of_memory = event["message"], event["event"] == "memory"
        elif event["event"] == "timeout":
            self.message, self.is_timed_out = "it was slower than machine.run_limit_seconds allows", True
        elif event["event"] == "stopped":
            self.is_stopped = True
        elif event["event"] == "end" and event["code"] == 0:
            self.is_wordless = True
        elif event["event"] == "end" and event["code"] == KILLED:
            now = memory_kills()
            self.is_killed_for_memory = now is None or self.kills_before is None or now > self.kills_before
            self.message = "the process was killed" + (", likely for memory" if self.is_killed_for_memory else "")

    def status(self, attempts: int) -> Status:
        """What a run that left no record is."""
        if self.is_timed_out:
            return "timed-out"
        if self.is_killed_for_memory or (self.is_short_of_memory and attempts >= MAX_ATTEMPTS):
            return "out-of-memory"
        return "failed"


def memory_kills() -> int | None:
    """How many processes the system has killed for want of memory since it started; None where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
