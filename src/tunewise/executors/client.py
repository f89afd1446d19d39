"""The other end of the server: hand it jobs, pass on what they report, return what they made."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tunewise.errors import USER_ERRORS, TunewiseError
from tunewise.ledger import Ledger
from tunewise.plans import PlanRequest, StudyPlan
from tunewise.records import MAX_ATTEMPTS, RunRecord, Status
from tunewise.spec import MachineSpec, RunSpec, StudySpec

KILLED = -9  # the exit status by which Linux ends the process that takes the last of its memory

Listener = Callable[[dict[str, Any]], None]


class LabServer:
    """A started server. One job at a time, so that timed runs never share the machine."""

    def __init__(self, machine: MachineSpec) -> None:
        self.machine = machine
        environment = {
            **os.environ,
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for CUDA must not initialise it
            "PYTHONHASHSEED": "0",  # peft writes its sets of names in an order that would be another in every process
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tunewise.executors.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,  # a Ctrl-C reaches us alone; we end the server
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with suppress(ProcessLookupError):  # it may be what failed
                os.killpg(self.process.pid, 9)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

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

    def _result(self, request: dict[str, Any], name: str, doing: str) -> dict[str, Any]:
        result: dict[str, Any] | None = None
        for event in self._do(request):
            if event["event"] == name:
                result = event
            elif event["event"] == "error":
                raise USER_ERRORS[event["kind"]](event["message"])
            elif event["event"] in ("crash", "memory"):
                raise TunewiseError(f"{doing} failed: {event['message']} (all of it: {event['log']})")
        if result is None:
            raise TunewiseError(f"{doing} ended without a result: the process was killed, likely for memory.")
        return result

    def run(self, spec: RunSpec, ledger: Ledger, data_folder: Path, listener: Listener) -> RunRecord:
        """The record of the run, which is stored. A run that crashed is `failed`, never an exception; one that the
        machine had no memory for, twice, is `does-not-fit`.
        """
        before = ledger.record(spec.run_id)
        folder = ledger.begin(spec)
        message, is_short_of_memory = "the process ended without a word", False
        request = {"job": "run", "folder": str(folder), "data": str(data_folder)}
        for event in self._do({**request, "checkpoint_seconds": self.machine.checkpoint_seconds}):
            if event["event"] in ("error", "crash", "memory"):
                message, is_short_of_memory = event["message"], event["event"] == "memory"
            elif event["event"] == "end" and event["code"] == KILLED:
                message, is_short_of_memory = "the process was killed, likely for memory", True
            listener({"run": spec.run_id, **event})
        record = ledger.record(spec.run_id)
        if record is None:
            attempts = before.attempts + 1 if before else 1
            given_up = is_short_of_memory and attempts >= MAX_ATTEMPTS
            status: Status = "does-not-fit" if given_up else "failed"
            ledger.finish(RunRecord(run_id=spec.run_id, spec=spec, status=status, message=message, attempts=attempts))
            record = ledger.record(spec.run_id)
        assert record is not None, "a finished run has a record"
        return record

    def _do(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            yield event
            if event["event"] == "end":
                return
        raise TunewiseError(f"the lab process ended (exit status {self.process.wait()}); what it printed stands above.")
