"""The events of a study as JSON lines in a file, for tools that are not Python.

tracker = JsonlTracker(Path("events.jsonl"))
tunewise.compare(study, listener=tracker.on)
tracker.close()
"""

import os
from contextlib import suppress
from pathlib import Path

from tunewise.records.events import Event
from tunewise.storage.disk import open_own
from tunewise.storage.files import reraise_as_study_error


class JsonlTracker:
    """Append a line per event to the file, which is created if missing. Raises StudyError if it cannot be opened.

    A line is in the file when `on` returns. If the disk is full, the study continues and `num_lost` counts the lost
    lines.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.num_lost = path, 0
        with reraise_as_study_error(path):
            self._file = os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0)

    def on(self, event: Event) -> None:
        """Append the event."""
        try:
            self._file.write(f"{event.model_dump_json()}\n".encode())
        except OSError:
            self.num_lost += 1

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()
