"""What the terminal shows while runs are made: all of them, what is done, and the time left."""

import io
from typing import Any

import pytest

from builders import make_run_spec
from tunewise.cli import progress as module
from tunewise.cli.progress import StudyProgress
from tunewise.cli.terminal import Terminal
from tunewise.records import events
from tunewise.spec import RunSpec

RUNS = [make_run_spec(arm=f"an-arm-with-a-rather-long-name-{seed}", role="confirm", seed=seed) for seed in range(1, 5)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


class Shown:
    """The display of a study of nine runs, of which one is done."""

    def __init__(self) -> None:
        self.console = Terminal(file=io.StringIO(), width=80)
        self.progress = StudyProgress(self.console)

    def begin(self, spec: RunSpec, done: int) -> None:
        self.progress.on(events.Begin(spec=spec, done=done, expected=9))

    def step(self, spec: RunSpec, step: int) -> None:
        numbers: dict[str, Any] = {"loss": 2.5, "learning_rate": 1e-3, "gradient_norm": 1.0, "num_targets": 3}
        self.progress.on(
            events.Step(run=spec.run_id, num_steps=20, step=step, num_tokens=123_456, seconds=0.5, **numbers)
        )

    def end(self, spec: RunSpec) -> None:
        self.progress.on(events.Done(run=spec.run_id))
        self.progress.on(events.End(run=spec.run_id, code=0))

    def lines(self) -> list[str]:
        with self.console.capture() as captured:
            self.console.print(self.progress.bars)
        return captured.get().splitlines()


def test_every_run_under_way_has_a_line_of_at_most_80_columns(clock: list[float]) -> None:
    shown = Shown()
    for spec in RUNS[:3]:
        shown.begin(spec, done=1)
    shown.step(RUNS[1], 7)
    lines = shown.lines()
    assert len(lines) == 4
    assert all(len(line) <= 80 for line in lines)
    assert "1/9" in lines[0]
    assert "7/20" in lines[2]
    assert "loss 2.500" in lines[2]
    shown.end(RUNS[0])
    assert len(shown.lines()) == 3
    assert "2/9" in shown.lines()[0]
    shown.begin(RUNS[3], done=2)
    assert len(shown.lines()) == 4, "a place has one line, whatever runs there"


def test_the_time_left_is_that_of_all_places_together(clock: list[float]) -> None:
    shown = Shown()
    shown.begin(RUNS[0], done=1)
    shown.begin(RUNS[1], done=1)
    assert "left" not in shown.lines()[0]
    clock[0] = 60.0
    shown.end(RUNS[0])
    shown.begin(RUNS[2], done=2)
    assert "3 min 30 s left" in shown.lines()[0], "seven runs of a minute, two at a time"


def test_runs_are_counted_as_they_start_and_stopping_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown()
    for spec in RUNS[:2]:
        shown.begin(spec, done=1)
    for spec in RUNS[:2]:
        shown.progress.on(events.Stopping(run=spec.run_id))
    assert isinstance(shown.console.file, io.StringIO)
    said = shown.console.file.getvalue()
    assert "[2/9]" in said
    assert "[3/9]" in said
    assert said.count("stopping after this step") == 1
