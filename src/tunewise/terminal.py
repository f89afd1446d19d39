"""The terminal as the product writes to it: text from outside is shown, never obeyed."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tunewise.safe_text import pictured


class Terminal(Console):
    """A console whose text has no control characters but its own: ESC from a data set is drawn as one character."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of `renderable`; those that steer the terminal come from rich alone."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(pictured(segment.text), segment.style)
