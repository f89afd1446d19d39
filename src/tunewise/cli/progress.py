"""The progress of a study in the terminal: what runs, how far it is, loss, speed, time left."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from tunewise.records import events
from tunewise.records.events import Event
from tunewise.spec import RunSpec

ROLES = {
    "base": "scoring the base",
    "short": "short trial",
    "tune": "searching the learning rate",
    "confirm": "confirming",
}


class StudyProgress:
    """A tracker that draws two bars: the study, and the run that is going on."""

    def __init__(self, console: Console) -> None:
        self.bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
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
        """Take the bars away, or leave them as they are where somebody sees them."""
        with self._even_unread():
            self.bars.stop()

    @contextmanager
    def _even_unread(self) -> Iterator[None]:
        """Where nobody reads any more (`| head`), the study goes on without a word."""
        try:
            yield
        except (BrokenPipeError, SystemExit):  # rich makes the one of the other
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
            case events.Unplanned():
                self._say(f"note: {event.message.rstrip('.')}. The study goes on without it.")
            case events.Begin():
                self._begin(event.spec, event.done, event.expected)
            case events.Step():
                self._step(event)
            case events.Stopping():
                self._say("stopping at the end of this step; Ctrl-C once more stops at once")
            case events.Stopped():
                self._say(event.message)
            case events.Halved():
                self._say(f"out of memory: once more with {event.max_tokens:,} tokens at a time")
            case events.TimedOut():
                self._say("run timed out: slower than machine.run_limit_seconds allows")
            case events.Refused() | events.Crashed() | events.OutOfMemory():
                self.console.print(Text.assemble(("run failed: ", "red"), event.message))  # no markup: it is not ours
            case _:  # what a job made, which the driver tells in its own way
                pass

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False)

    def _begin(self, spec: RunSpec, done: int, expected: int) -> None:
        if self.done_before is None:
            self.done_before = done
            if done:
                self.console.print(f"continuing: {done} runs are done already")
        fresh = done - self.done_before
        left = (time.monotonic() - self.started) / fresh * (expected - done) if fresh else None
        detail = f"about {_duration(left)} left" if left is not None else ""
        self.bars.update(self.study, completed=done, total=expected, detail=detail)
        rate = f", learning rate {spec.learning_rate:g}, seed {spec.seed}" if spec.learning_rate else ""
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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
