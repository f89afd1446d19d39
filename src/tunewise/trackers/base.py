"""Interface of a tracker, used as `compare(study, listener=tracker.on)`."""

from typing import Protocol

from tunewise.records.events import Event


class Tracker(Protocol):
    """Follows one command. tests/conformance/test_trackers.py holds the laws that every tracker keeps.

    Its failures cost the study nothing: `on` raises no error of its own output.
    """

    def on(self, event: Event) -> None:
        """Receive an event of any kind."""

    def close(self) -> None:
        """Flush and close the log. May be called twice."""
