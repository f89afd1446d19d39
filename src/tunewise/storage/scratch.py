"""Folders for temporary files, or one message that the machine has no room for them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunewise.errors import StudyError


def require_scratch() -> None:
    """Raise StudyError if there is no place for temporary files. Call before importing torch, which needs one."""
    with _told_scratch():
        tempfile.gettempdir()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, removed afterwards. Raises StudyError if the machine has no place for one."""
    with _told_scratch():
        folder = tempfile.TemporaryDirectory(prefix="tunewise-")
    with folder as name:
        yield Path(name)


@contextmanager
def _told_scratch() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"no place for temporary files: {error.strerror or error}. Free space in their folder, or name "
            "another one: TMPDIR=/path tunewise ..."
        ) from error
