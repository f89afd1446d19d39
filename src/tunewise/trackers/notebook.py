"""Live progress of a study below the cell of a notebook that calls `tunewise.compare`.

Used only if a Jupyter kernel runs this process, whose IPython is already loaded: tunewise does not depend on it.
"""

import html
import sys
import time
from typing import Any

from tunewise.records import events
from tunewise.records.events import Event, Listener, unheard
from tunewise.spec import RunSpec
from tunewise.text.safe import pictured
from tunewise.trackers.lines import PLANNING, PREPARING, in_words, lines_of

REFRESH_SECONDS = 0.25  # between two drawings of steps; every drawing is a message to the browser
MOST_LINES = 20  # of messages; the newest


def followed(listener: Listener) -> Listener:
    """The listener; progress in the notebook if there is none and a Jupyter kernel runs this process."""
    shell = display_of_kernel() if listener is unheard else None
    return listener if shell is None else NotebookTracker(shell).on


def display_of_kernel() -> Any:
    """`IPython.display` inside a Jupyter kernel; None elsewhere, also in IPython's own terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return sys.modules.get("IPython.display") if getattr(shell, "kernel", None) else None


class NotebookTracker:
    """A bar for the study, one for every run under way, and messages, in one output that is drawn again in place."""

    def __init__(self, display: Any) -> None:
        self._display, self._handle = display, None
        self.runs: dict[str, _Run] = {}  # under way, by id
        self.done = self.expected = 0
        self.status = ""
        self.lines: list[str] = []
        self._drawn = float("-inf")  # by the monotonic clock

    def on(self, event: Event) -> None:
        """Draw what an event changes. A notebook that cannot show it costs the study nothing."""
        match event:
            case events.Preparing():
                self.status = PREPARING
            case events.Planning():
                self.status = PLANNING
            case events.Begin():
                self.done, self.expected, self.status = event.done, event.expected, ""
                self.runs[event.spec.run_id] = _Run(event.spec)
            case events.Step(run=str() as run) if run in self.runs:
                self.runs[run].step = event
            case events.Done(run=str() as run) if run in self.runs:
                self.done += 1
            case events.End(run=str() as run) if run in self.runs:
                del self.runs[run]
            case _:
                self.lines += lines_of(event)
        if not isinstance(event, events.Step) or time.monotonic() - self._drawn > REFRESH_SECONDS:
            self.close()

    def close(self) -> None:
        """Draw the newest state."""
        if self._display is None:
            return
        self._drawn = time.monotonic()
        try:
            shown = self._display.HTML(self.page())
            if self._handle is None:
                self._handle = self._display.display(shown, display_id=True)
            else:
                self._handle.update(shown)
        except Exception:  # whatever a front end raises, the study goes on
            self._display = None

    def page(self) -> str:
        """The output as HTML. All text is escaped, and control characters become visible signs."""
        rows = [_row("study", self.done, self.expected, f"{self.done} of {self.expected} runs. {self.status}")]
        rows += [run.row() for run in self.runs.values()]
        said = "<br>".join(map(_shown, self.lines[-MOST_LINES:]))
        return f"<table>{''.join(rows)}</table>" + (f"<p>{said}</p>" if said else "")


class _Run:
    """A run under way, and its newest step."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.step: events.Step | None = None

    def row(self) -> str:
        """Its bar and what it does."""
        says = in_words(self.spec)
        if self.step is None:
            return _row(self.spec.arm, 0, 0, says)
        says += f": step {self.step.step} of {self.step.num_steps}, loss {self.step.loss:.3f}"
        return _row(self.spec.arm, self.step.step, self.step.num_steps, says)


def _row(name: str, done: int, total: int, says: str) -> str:
    bar = f'<progress value="{done}" max="{max(done, total, 1)}"></progress>'
    return f"<tr><td>{_shown(name)}</td><td>{bar}</td><td>{_shown(says.strip())}</td></tr>"


def _shown(text: str) -> str:
    return html.escape(pictured(text))
