"""Law 48: exit status 0 means that everything asked for was done, and a job that fails ends where it failed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from desk.conftest import ARMS, FakeLab, data_summary, prepared, run_of, study_spec, unchanged
from desk.planned_study import arm_plan, study_plan
from fake_executor import FakeExecutor
from tunewise import __main__ as entry
from tunewise.cli import app
from tunewise.cli.progress import StudyProgress
from tunewise.cli.terminal import Terminal
from tunewise.commands import compare as driver
from tunewise.commands.planning import planned
from tunewise.desk.protocol import resolve, schedule
from tunewise.desk.report.compose.build import build_report
from tunewise.errors import MachineError, TunewiseError
from tunewise.executors import ask
from tunewise.executors.attempts import Attempts
from tunewise.executors.base import Job, LostPlaceError, PlanJob, PrepareJob, ProbeJob, RunJob
from tunewise.executors.local import client
from tunewise.executors.local.client import LocalExecutor
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.records.plan import PlanRequest, StudyPlan
from tunewise.spec import MachineSpec
from tunewise.storage.ledger import Ledger

# A server with jobs of its own: each reports something before it fails, or dies within a line.
FAULTY = """
import os, signal, sys, warnings
from tunewise.executors.local import server
from tunewise.records import events

def crash(request):
    server.send(events.Stopping())
    raise RuntimeError("this job is broken")

def half(request):
    os.write(server.EVENTS, b'{"event": "prepared", "ke')
    os.kill(os.getpid(), signal.SIGKILL)

def good(request):
    server.send(events.Prepared(key="k"))

def full(request):
    raise OSError(24, "Too many open files")

def fatal(request):
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()

def by_root(request):
    jobs = {"crash": crash, "half": half, "good": good, "full": full, "fatal": fatal}
    jobs[os.path.basename(request.root)](request)

server.PRELOADED = ()
server.JOBS = {"prepare": by_root, "plan": crash}
server.EVENTS = os.dup(1)
os.dup2(2, 1)
server.LIFELINE = int(sys.argv[1])
warnings.warn("a library complains while it is imported")
server.serve()
"""


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalExecutor]:
    monkeypatch.setattr(client, "SERVER", ("-c", FAULTY))
    with LocalExecutor() as started:
        yield started


@pytest.mark.slow
def test_law_48_a_job_that_fails_is_read_to_its_end(lab: LocalExecutor, tmp_path: Path) -> None:
    """Law 48: what follows a job that crashed, was killed within a line or was refused something is its own."""
    study = study_spec()
    with pytest.raises(TunewiseError, match="this job is broken"):
        ask.prepare(lab, study, tmp_path / "crash")
    with pytest.raises(TunewiseError, match="this job is broken"):
        ask.plan(lab, study, tmp_path / "crash", PlanRequest())
    with pytest.raises(TunewiseError, match="was killed"):
        ask.prepare(lab, study, tmp_path / "half")
    with pytest.raises(MachineError, match="ulimit -n"):
        ask.prepare(lab, study, tmp_path / "full")
    assert ask.prepare(lab, study, tmp_path / "good") == "k"
    with pytest.raises(TunewiseError, match="this job is broken"):
        ask.prepare(lab, study, tmp_path / "crash")


@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV"])
def test_law_48_a_library_that_crashes_is_one_message(name: str) -> None:
    """Law 48: Arrow aborts on some damaged Parquet files, and nothing can catch that within the process."""
    executor = FakeExecutor(lambda job: iter([events.End(code=-getattr(signal, name))]))
    with pytest.raises(MachineError, match=rf"preparing the data ended because a library crashed \({name}\)"):
        ask.prepare(executor, study_spec(), Path("nowhere"))


def test_law_48_a_process_that_is_killed_once_is_asked_once_more() -> None:
    """Law 48: a study does without its plan, or is refused, only if what killed the process is still there."""
    ends: list[list[Event]] = [[events.End(code=-signal.SIGKILL)], [events.Prepared(key="k")]]
    executor = FakeExecutor(lambda job: ends.pop(0))
    assert ask.prepare(executor, study_spec(), Path("nowhere")) == "k"
    executor = FakeExecutor(lambda job: [events.End(code=-signal.SIGKILL)])
    with pytest.raises(TunewiseError, match="twice: the process was killed"):
        ask.prepare(executor, study_spec(), Path("nowhere"))
    assert len(executor.jobs) == 2


def test_law_48_a_place_that_is_lost_while_it_plans_ends_the_command(tmp_path: Path) -> None:
    """Law 48: a study without a plan is one that cannot be planned, not one whose place is gone."""

    def lost(job: Job) -> list[Event]:
        raise LostPlaceError("gone")

    heard: list[Event] = []
    data = data_summary()
    with pytest.raises(LostPlaceError, match="gone"):
        planned(FakeExecutor(lost), Ledger(tmp_path), resolve.resolve(study_spec(), data), data, heard.append)
    assert heard == []


def test_law_48_a_server_that_is_killed_alone_ends_the_command_with_its_run(
    lab: LocalExecutor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Law 48: nothing goes on of which nobody would hear; and what libraries say reaches no terminal."""
    with pytest.raises(MachineError, match=r"killed from outside \(SIGKILL\).*Run the same command again"):
        ask.prepare(lab, study_spec(), tmp_path / "fatal")
    said = capfd.readouterr()
    assert said.out + said.err == ""


def test_law_48_a_server_that_cannot_start_says_why_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SERVER", ("-c", "raise ImportError('torch is not there')"))
    with pytest.raises(TunewiseError, match="torch is not there"), LocalExecutor() as lab:
        ask.prepare(lab, study_spec(), Path("nowhere"))


class Lab:
    """Answers from a seed; planning and every probe fail, and so does what `lose` says."""

    lose: tuple[str, ...] = ()
    plan_of: StudyPlan | None = None

    def __init__(self) -> None:
        self.summary = data_summary()

    def answer(self, job: Job) -> Iterator[Event]:
        match job:
            case PrepareJob():
                yield prepared(job, self.summary)
            case PlanJob():
                if self.plan_of is None:
                    raise TunewiseError("planning broke")
                yield events.Planned(plan=self.plan_of)
            case ProbeJob():
                raise TunewiseError("the probe broke")
            case RunJob():
                spec, ledger = run_of(job)
                if spec.role == "confirm" and spec.arm in self.lose:
                    yield events.Crashed(message="it broke", log="log.txt")
                    yield events.End(code=1)
                    return
                lab = FakeLab(ledger, resolve.resolve(study_spec(), self.summary), self.summary, unchanged)
                yield from lab.answer(job)


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command `compare` with that lab: its exit status."""
    monkeypatch.setattr("tunewise.storage.disk.sync", lambda path: None)
    monkeypatch.setattr("tunewise.commands.report.write_report", build_report)
    monkeypatch.setattr("tunewise.commands.deliver.write_card", lambda ledger, study, record: None)
    monkeypatch.setattr(driver, "LocalExecutor", lambda held: FakeExecutor(Lab().answer))
    monkeypatch.setattr(sys, "argv", ["tunewise", "compare"])
    monkeypatch.setattr(app, "show_report", lambda result: None)

    def run() -> int:
        try:
            app._run(study_spec(), tmp_path / "study", False)
        except app.typer.Exit as ended:
            return ended.exit_code
        return 0

    return run


def test_law_48_a_plan_or_probe_that_fails_is_named_and_every_run_is_made(
    compare: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Law 48: the study goes on, says what is missing, and ends with 0 because all its runs are there."""
    assert compare() == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "could not be planned: planning broke" in said
    whole = len(Ledger(tmp_path / "study").records())
    monkeypatch.setattr(Lab, "plan_of", study_plan(**{name: arm_plan() for name in ARMS}))
    assert compare() == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("could not be measured") == 1, "arms of one shape are probed once"
    assert "the speed of arm 'full' could not be measured: the probe broke. The study continues without it." in said
    assert len(Ledger(tmp_path / "study").records()) == whole > 0


def test_law_48_a_study_with_lost_runs_does_not_end_with_0(
    compare: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Law 48: they are named with their reason, and the same command makes them."""
    arm = list(ARMS)[-1]
    monkeypatch.setattr(Lab, "lose", (arm,))
    assert compare() == app.UNFINISHED
    said = capsys.readouterr().err
    assert f"- {arm}, seed " in said
    assert "failed (it broke)" in said
    assert "tunewise compare" in said
    monkeypatch.setattr(Lab, "lose", ())
    assert compare() == 0


def test_law_48_a_run_without_result_and_reason_is_not_taken_for_done(tmp_path: Path) -> None:
    """Law 48: a stream that says only that the job ended is out of step."""
    ledger = Ledger(tmp_path)
    ledger.create()
    spec = schedule.Drafts(resolve.resolve(study_spec(), data_summary()), data_summary()).bases()[0]
    with pytest.raises(TunewiseError, match="without a result or a reason"):
        Attempts(FakeExecutor(lambda job: ()), ledger, MachineSpec()).run(spec, tmp_path)
    assert ledger.records() == []


def test_law_48_a_study_whose_reader_is_gone_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 48: `compare | head` loses nothing."""
    closed: list[int] = []
    monkeypatch.setattr(os, "dup2", lambda old, new: closed.append(new))
    progress = StudyProgress(Terminal(width=80))

    def gone(*of: object, **options: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(progress.console, "print", gone)
    progress.on(events.Stopped(message="x"))
    assert closed == [1]
    assert progress.console.quiet


def test_law_48_a_library_that_interrupts_without_threads_is_not_taken_for_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Law 48: OpenBLAS raises SIGINT in its own process if it cannot start a thread."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    def interrupt(**_: object) -> None:
        raise SystemExit(130)

    monkeypatch.setattr(app, "app", interrupt)
    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(SystemExit) as ended:
        app.main()
    told = capsys.readouterr().err
    assert (ended.value.code, "interrupted" in told, "ulimit -u" in told) == (2, False, True)


def test_law_48_an_interruption_while_the_command_is_loaded_is_one_line() -> None:
    """Law 48: Python drops a KeyboardInterrupt in some places of an import, and printed tracebacks in others."""
    load = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "from tunewise import __main__ as entry\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'tunewise.cli.app':\n"
        "            try:\n"
        "                signal.raise_signal(signal.SIGINT)\n"
        "            except KeyboardInterrupt:\n"
        "                pass\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "entry.main()"
    )
    ended = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(24, "Too many open files"), 2, "ulimit -n"),
        (RuntimeError("can't start new thread"), 2, "ulimit -u"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), 2, "TMPDIR"),
        (ImportError("libtorch.so: cannot open shared object file: Too many open files"), 2, "ulimit -n"),
        (MemoryError(), 2, "ulimit -v"),
    ],
)
def test_law_48_what_the_system_refuses_is_one_message(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Law 48: also where it is refused before the command line is loaded."""

    def refuse() -> None:
        raise error

    monkeypatch.setattr(entry, "leave_out_current_folder", refuse)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    told = capfd.readouterr().err
    assert (ended.value.code, said in told, "Traceback" in told) == (code, True, False)
