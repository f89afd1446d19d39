"""Log of optimizer steps."""

import hashlib
from pathlib import Path
from typing import IO

from tunewise.storage import disk
from tunewise.storage.files import reraise_as_study_error


class StepLog:
    """steps.jsonl: one line per optimizer step, the first ones possibly written by an earlier process."""

    def __init__(self, path: Path) -> None:
        self.path, self.num_bytes, self.digest = path, 0, hashlib.sha256()
        self.file: IO[bytes] | None = None  # None: not opened yet

    def holds(self, num_bytes: int, sha256: str) -> bool:
        """True if the file begins with this many bytes of this hash."""
        if not self.path.is_file():
            return False
        with self.path.open("rb") as file:
            content = file.read(num_bytes)
        return len(content) == num_bytes and hashlib.sha256(content).hexdigest() == sha256

    def open(self, num_bytes: int) -> None:
        """Continue after the first `num_bytes`; anything after them is removed."""
        with reraise_as_study_error(self.path):
            file = open(  # noqa: SIM115 - `close` closes it
                self.path, "r+b", opener=lambda name, flags: disk.open_own(Path(name), flags)
            )
            self.digest.update(file.read(num_bytes))
            self.file, self.num_bytes = file, num_bytes
            file.truncate(num_bytes)

    def write(self, line: str) -> None:
        """Append a line."""
        content = f"{line}\n".encode()
        with reraise_as_study_error(self.path):
            disk.append(self._opened(), content)
        self.digest.update(content)
        self.num_bytes += len(content)

    def flush(self) -> None:
        """Sync everything written so far to the disk."""
        with reraise_as_study_error(self.path):
            self._opened().flush()
            disk.sync(self.path)

    def close(self) -> None:
        """Flush and close the log."""
        self.flush()
        self._opened().close()

    def _opened(self) -> IO[bytes]:
        assert self.file is not None, "call `open` first"
        return self.file
