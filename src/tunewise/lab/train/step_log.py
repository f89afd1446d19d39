"""The log of optimizer steps."""

import hashlib
from pathlib import Path
from typing import IO

from tunewise.storage import disk
from tunewise.storage.files import told


class StepLog:
    """steps.jsonl: a line per optimizer step, the first ones perhaps written by a process that is gone."""

    def __init__(self, path: Path) -> None:
        self.path, self.num_bytes, self.digest = path, 0, hashlib.sha256()
        self.file: IO[bytes] | None = None  # None: not opened yet

    def holds(self, num_bytes: int, sha256: str) -> bool:
        """True if the file begins with these many bytes of this hash."""
        if not self.path.is_file():
            return False
        with self.path.open("rb") as file:
            content = file.read(num_bytes)
        return len(content) == num_bytes and hashlib.sha256(content).hexdigest() == sha256

    def open(self, num_bytes: int) -> None:
        """Begin behind the first `num_bytes`; what stood there goes."""
        with told(self.path):
            file = open(  # noqa: SIM115 - `close` closes it
                self.path, "r+b", opener=lambda name, flags: disk.open_own(Path(name), flags)
            )
            self.digest.update(file.read(num_bytes))
            self.file, self.num_bytes = file, num_bytes
            file.truncate(num_bytes)

    def write(self, line: str) -> None:
        """Add a line."""
        content = f"{line}\n".encode()
        with told(self.path):
            disk.append(self._opened(), content)
        self.digest.update(content)
        self.num_bytes += len(content)

    def flush(self) -> None:
        """What was written is on the disk when this returns."""
        with told(self.path):
            self._opened().flush()
            disk.sync(self.path)

    def close(self) -> None:
        """Flush and close the log."""
        self.flush()
        self._opened().close()

    def _opened(self) -> IO[bytes]:
        assert self.file is not None, "`open` comes first"
        return self.file
