"""What a tracker is: `compare(study, listener=tracker.on)`."""

from typing import Protocol

from tunewise.records.events import Event


class Tracker(Protocol):
    """Follows one command. tests/conformance/test_trackers.py holds the laws that every tracker keeps.

    Whatever it fails at costs the study nothing: `on` raises no error of its own output.
    """

    def on(self, event: Event) -> None:
        """Take note of an event, of whichever kind."""

    def close(self) -> None:
        """Nothing more comes; may be called twice."""
