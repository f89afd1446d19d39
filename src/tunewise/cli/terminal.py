"""The terminal, protected from text that comes from outside: it is shown, never interpreted."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tunewise.text.safe import pictured

USUAL_SIZE = re.compile("[1-9][0-9]{0,3}")  # columns or lines; other values say nothing about a terminal


class Terminal(Console):
    """A console that draws control characters in text, such as ESC from a data set, as visible characters."""

    def __init__(self, **options: Any) -> None:
        """Take rich's options. Values such as COLUMNS=0 are ignored; without a terminal the width is 80 columns."""
        super().__init__(**{"_environ": _usual(os.environ), **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of `renderable`. Only rich itself contributes control segments."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(pictured(segment.text), segment.style)


def _usual(environment: Mapping[str, str]) -> dict[str, str]:
    sizes = {"COLUMNS", "LINES", "JUPYTER_COLUMNS", "JUPYTER_LINES"}
    return {k: v for k, v in environment.items() if k not in sizes or USUAL_SIZE.fullmatch(v)}
