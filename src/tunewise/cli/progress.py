"""Progress of a study in the terminal: runs under way, steps done, loss, speed, time left."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from tunewise.records import events
from tunewise.records.events import Event
from tunewise.spec import RunSpec
from tunewise.trackers.lines import PLANNING, PREPARING, in_words, lines_of

NAME_WIDTH = 16  # columns of an arm name in the bars, so that a line fits 80 columns


class StudyProgress:
    """A tracker that draws a bar for the study and one for every run under way."""

    def __init__(self, console: Console) -> None:
        self.bars = Progress(
            TextColumn("[bold]{task.description}", table_column=_one_line(NAME_WIDTH)),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}", table_column=_one_line()),
            TimeElapsedColumn(),
            console=console,
            transient=not console.is_interactive,
        )
        self.console = console
        self.study = self.bars.add_task("study", total=None, detail="")
        self.runs: dict[str, _Bar] = {}  # under way, by run id
        self.done_before: int | None = None
        self.is_stopping = False
        self.durations: list[float] = []  # seconds of finished runs

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def on(self, event: Event) -> None:
        """Show one event of the study."""
        with self._even_unread():
            self._show(event)

    def close(self) -> None:
        """Remove the bars, or leave them in place on a terminal."""
        with self._even_unread():
            self.bars.stop()

    @contextmanager
    def _even_unread(self) -> Iterator[None]:
        """If nobody reads the output any more (`| head`), continue the study silently."""
        try:
            yield
        except (BrokenPipeError, SystemExit):  # rich turns a BrokenPipeError into SystemExit
            self.console.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def _show(self, event: Event) -> None:
        match event:
            case events.Preparing():
                self.bars.update(self.study, detail=PREPARING)
            case events.Planning():
                self._plan(PLANNING)
            case events.Begin():
                self._begin(event.spec, event.done, event.expected)
            case events.Step(run=str() as run) if run in self.runs:
                self._step(self.runs[run], event)
            case events.Done(run=str() as run) if run in self.runs:
                self._done(self.runs[run])
            case events.End(run=str() as run) if run in self.runs:
                self.bars.update(self.runs[run].task, visible=False)
            case events.Stopping() if not self.is_stopping:
                self.is_stopping = True  # several runs say it
                self._say("stopping after this step (Ctrl-C again: stop now)")
            case events.Refused() | events.Crashed() | events.OutOfMemory():
                for line in lines_of(event):  # no markup: the text comes from outside
                    self.console.print(Text(line, style="red"))
            case _:
                for line in lines_of(event):
                    self._say(line)

    def _plan(self, detail: str) -> None:
        """Tell what goes on before the first run; also where no bars are drawn, for it can take minutes."""
        self.bars.update(self.study, detail=detail)
        if not self.console.is_interactive:
            self._say(detail)

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False)

    def _begin(self, spec: RunSpec, done: int, expected: int) -> None:
        if self.done_before is None:
            self.done_before = done
            if done:
                self.console.print(f"resuming: {done} runs are already done")
        for run in [run for run, bar in self.runs.items() if not self.bars.tasks[bar.task].visible]:
            del self.runs[run]
        name = spec.arm
        self.runs[spec.run_id] = _Bar(self._hidden_bar(), time.monotonic())
        detail = in_words(spec)
        self.bars.reset(self.runs[spec.run_id].task, description=name, total=None, visible=True, detail=detail)
        self.bars.update(self.study, completed=done, total=expected, detail=self._left(expected - done))
        if not self.console.is_interactive:
            self._say(f"[{done + len(self.runs)}/{expected}] {name}: {detail}")

    def _hidden_bar(self) -> TaskID:
        """A bar that no run uses any more, or a new one; so the display has as many as there are places."""
        used = {bar.task for bar in self.runs.values()} | {self.study}
        free = (task.id for task in self.bars.tasks if task.id not in used)
        return next(free, None) or self.bars.add_task("run", total=None, detail="", visible=False)

    def _left(self, num_runs: int) -> str:
        """Time left for so many runs, those under way included, if as many run at the same time as now."""
        if not self.durations:
            return ""
        seconds = sum(self.durations) / len(self.durations) * num_runs / max(1, len(self.runs))
        return f"about {_duration(seconds)} left"

    def _step(self, bar: "_Bar", event: events.Step) -> None:
        bar.tokens += event.num_tokens
        bar.seconds += event.seconds
        detail = f"loss {event.loss:.3f}  {bar.tokens / bar.seconds:,.0f} tokens/s"
        self.bars.update(bar.task, completed=event.step, total=event.num_steps, detail=detail)

    def _done(self, bar: "_Bar") -> None:
        self.durations.append(time.monotonic() - bar.started)
        self.bars.advance(self.study)


@dataclass
class _Bar:
    """Bar of a run, and its speed so far."""

    task: TaskID
    started: float  # by the monotonic clock
    tokens: float = 0.0
    seconds: float = 0.0


def _one_line(most: int | None = None) -> Column:
    return Column(no_wrap=True, overflow="ellipsis", max_width=most)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
