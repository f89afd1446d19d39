"""Progress of a study in the terminal: current run, steps done, loss, speed, time left."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from tunewise.errors import clause
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.spec import RunSpec

ROLES = {
    "base": "scoring",
    "short": "short trial",
    "tune": "trial",
    "confirm": "confirmation",
}
NAME_WIDTH = 16  # columns of an arm name in the bars, so that a line fits 80 columns


class StudyProgress:
    """A tracker that draws two bars: the study and the current run."""

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
        self.run = self.bars.add_task("run", total=None, detail="", visible=False)
        self.started = time.monotonic()
        self.done_before: int | None = None
        self.tokens = self.seconds = 0.0

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
                self.bars.update(self.study, detail="loading model and data")
            case events.Planning():
                self.bars.update(self.study, detail="planning")
            case events.Findings():
                for finding in event.findings:
                    self.console.print(Text(f"{finding.severity}: {finding.sentence} ({finding.evidence})"))
            case events.TooLong():
                self._say(event.sentence)
                for version in event.versions:
                    self._say(f"  {version}")
            case events.Prospects():
                self._say("after the search, before any test score:")
                for sentence in event.sentences:
                    self._say(f"  {sentence}")
                if event.is_hopeless:
                    self._say("ending here, as --stop-if-hopeless asks: no arm was scored on the test set")
            case events.Unplanned():
                self._say(f"note: {clause(event.message)}. The study continues without it.")
            case events.Begin():
                self._begin(event.spec, event.done, event.expected)
            case events.Step():
                self._step(event)
            case events.Stopping():
                self._say("stopping after this step (Ctrl-C again: stop now)")
            case events.Stopped():
                self._say(event.message)
            case events.Halved():
                self._say(f"out of memory: retrying with {event.max_tokens:,} tokens per micro-batch")
            case events.Moved():
                self._say(f"{clause(event.message)}. Its run starts again at another place")
            case events.TimedOut():
                self._say("run timed out: it exceeded machine.run_limit_seconds")
            case events.Refused() | events.Crashed() | events.OutOfMemory():
                self.console.print(
                    Text.assemble(("run failed: ", "red"), event.message)
                )  # no markup: the text comes from outside
            case _:  # results of jobs, which the driver reports itself
                pass

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False)

    def _begin(self, spec: RunSpec, done: int, expected: int) -> None:
        if self.done_before is None:
            self.done_before = done
            if done:
                self.console.print(f"resuming: {done} runs are already done")
        fresh = done - self.done_before
        left = (time.monotonic() - self.started) / fresh * (expected - done) if fresh else None
        detail = f"about {_duration(left)} left" if left is not None else ""
        self.bars.update(self.study, completed=done, total=expected, detail=detail)
        rate = f", rate {spec.learning_rate:.3g}, seed {spec.seed}" if spec.learning_rate else ""
        self.tokens = self.seconds = 0.0
        name = spec.arm if spec.role != "base" else "base"
        self.bars.reset(self.run, description=name, total=None, visible=True, detail=f"{ROLES[spec.role]}{rate}")
        if not self.console.is_interactive:
            self._say(f"[{done + 1}/{expected}] {name}: {ROLES[spec.role]}{rate}")

    def _step(self, event: events.Step) -> None:
        self.tokens += event.num_tokens
        self.seconds += event.seconds
        detail = f"loss {event.loss:.3f}  {self.tokens / self.seconds:,.0f} tokens/s"
        self.bars.update(self.run, completed=event.step, total=event.num_steps, detail=detail)


def _one_line(most: int | None = None) -> Column:
    return Column(no_wrap=True, overflow="ellipsis", max_width=most)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
