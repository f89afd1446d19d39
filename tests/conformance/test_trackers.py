"""Laws of trackers: every one takes every event, costs the study nothing, and may be closed twice."""

import io
import types
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from pydantic import TypeAdapter

from builders import make_data_summary, make_run_spec
from desk.conftest import study_spec
from desk.planned_study import SPEED, study_plan
from tunewise.cli.progress import StudyProgress
from tunewise.cli.terminal import Terminal
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.records.plan import Prospect
from tunewise.records.worker import Worker
from tunewise.spec.resolved import ResolvedStudy
from tunewise.trackers.base import Tracker
from tunewise.trackers.jsonl import JsonlTracker
from tunewise.trackers.notebook import NotebookTracker

REMARK = events.Remark(id="x", severity="note", sentence="[b]so", evidence="1 < 2", arms=(), forbids=())
RESOLVED = ResolvedStudy.model_validate({**study_spec().model_dump(), "task": "sft"})
PROSPECT = Prospect(
    arm="lora",
    metric="nll",
    margin=0.02,
    unit_sd=0.1,
    test_units=50,
    looks=(3,),
    chances=(0.4,),
    smallest_margin=None,
    with_more_rows=0.9,
)
WORKER = Worker(host="node-7", process=1, python="3.12.1", versions={}, num_gpus=1, clock=1.0, nonce="n")
EVERY: list[Event] = [
    events.Preparing(),
    events.Prepared(key="k"),
    events.Checked(study=RESOLVED, data=make_data_summary(), remarks=("runs would be lost",)),
    events.Findings(findings=(REMARK,)),
    events.TooLong(sentence="[b]long", versions=("--budget 1h: [i]shorter",)),
    events.NextSet(name="[b]first", number=1, total=2),
    events.Prospects(prospects=(PROSPECT,), sentences=("[b]a chance",), is_hopeless=True),
    events.Planning(),
    events.Planned(plan=study_plan()),
    events.Probed(speed=SPEED),
    events.Unplanned(message="no plan"),
    events.Crowded(message="a run of arm '[b]full' needs 9 GiB"),
    events.Ready(),
    events.Greeted(worker=WORKER),
    events.Begin(spec=make_run_spec(), done=1, expected=7),
    events.Step(
        run="r", num_steps=9, step=1, loss=2.0, learning_rate=1e-3, gradient_norm=1.0, num_targets=3, num_tokens=5,
        seconds=0.5,
    ),
    events.Halved(run="r", max_tokens=512),
    events.Moved(run="r", message="killed [b]from outside"),
    events.Stopping(run="r"),
    events.Stopped(run="r", message="stopped after step 3"),
    events.Refused(run="r", kind="DataError", message="no rows"),
    events.Crashed(run="r", message="KeyError: [x]", log="log.txt"),
    events.OutOfMemory(run="r", message="40 GiB", log="log.txt"),
    events.TimedOut(run="r"),
    events.Done(run="r"),
    events.End(run="r", code=0),
]  # fmt: skip


class FakeDisplay:
    """Stands for IPython.display: keeps the newest HTML of its only output."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    HTML = str

    def display(self, content: str, *, display_id: bool) -> "FakeDisplay":
        assert display_id
        self.shown.append(content)
        return self

    def update(self, content: str) -> None:
        self.shown[-1] = content


TRACKERS: dict[str, Callable[[Path], Tracker]] = {
    "jsonl": lambda folder: JsonlTracker(folder / "events.jsonl"),
    "notebook": lambda folder: NotebookTracker(FakeDisplay()),
    "progress": lambda folder: StudyProgress(Terminal(file=io.StringIO(), width=100)),
}


def test_the_events_above_are_all_that_there_are() -> None:
    assert {type(event) for event in EVERY} == set(get_args(get_args(Event)[0]))


@pytest.mark.parametrize("event", EVERY, ids=lambda event: event.event)
def test_an_event_is_the_same_once_it_went_through_a_pipe(event: Event) -> None:
    assert TypeAdapter(Event).validate_json(event.model_dump_json()) == event


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_takes_every_event_in_any_order_and_closes_twice(name: str, tmp_path: Path) -> None:
    for order in (EVERY, EVERY[::-1]):
        tracker = TRACKERS[name](tmp_path)
        for event in order:
            tracker.on(event)
        tracker.close()
        tracker.close()


class Full:
    """A file on a disk without room."""

    def write(self, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_whose_output_fails_costs_the_study_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*of: object, **options: object) -> None:
        raise BrokenPipeError

    tracker = TRACKERS[name](tmp_path)
    monkeypatch.setattr("os.dup2", lambda old, new: None)
    if isinstance(tracker, StudyProgress):
        monkeypatch.setattr(tracker.console, "print", gone)
    elif isinstance(tracker, NotebookTracker):
        monkeypatch.setattr(tracker, "_display", types.SimpleNamespace(HTML=str, display=gone))
    elif isinstance(tracker, JsonlTracker):
        monkeypatch.setattr(tracker, "_file", Full())
    for event in EVERY:
        tracker.on(event)
    tracker.close()


def test_the_file_holds_every_event_in_its_order_and_those_of_the_command_before(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for _ in range(2):
        tracker = JsonlTracker(path)
        for event in EVERY:
            tracker.on(event)
        assert tracker.num_lost == 0
        tracker.close()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [TypeAdapter(Event).validate_json(line) for line in lines] == EVERY * 2
