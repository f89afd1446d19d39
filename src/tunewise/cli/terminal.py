"""The terminal as the product writes to it: text from outside is shown, never obeyed."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tunewise.text.safe import pictured

USUAL_SIZE = re.compile("[1-9][0-9]{0,3}")  # columns or lines; anything else tells nothing of a terminal


class Terminal(Console):
    """A console whose text has no control characters but its own: ESC from a data set is drawn as one character."""

    def __init__(self, **options: Any) -> None:
        """Takes rich's options. COLUMNS=0 and the like do not count: the terminal is asked, else it has 80 columns."""
        super().__init__(**{"_environ": _usual(os.environ), **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of `renderable`; those that steer the terminal come from rich alone."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(pictured(segment.text), segment.style)


def _usual(environment: Mapping[str, str]) -> dict[str, str]:
    sizes = {"COLUMNS", "LINES", "JUPYTER_COLUMNS", "JUPYTER_LINES"}
    return {k: v for k, v in environment.items() if k not in sizes or USUAL_SIZE.fullmatch(v)}
