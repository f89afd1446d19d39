"""Folders for temporary files, or one message that the machine has no place for them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunewise.errors import StudyError


def require_scratch() -> None:
    """Raises StudyError if there is no place for temporary files. Call before torch is imported: it needs one."""
    with _told_scratch():
        tempfile.gettempdir()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for temporary files that is gone afterwards. Raises StudyError if the machine has no place for one."""
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
            f"no place for temporary files: {error.strerror or error}. Make room in the folder for them, or name "
            "another one: TMPDIR=/path tunewise ..."
        ) from error
