"""Folders that a command fills for its user, and folders for its own use: whole or not there at all."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunewise.disk import make_folder, sync_all, told
from tunewise.errors import ModelError, StudyError


def require_free(out: Path) -> None:
    """Raises ModelError if `out` is a file, a link, or a folder that is not empty."""
    with told(out, "read"):
        if out.is_symlink() or (out.exists() and not out.is_dir()):
            raise ModelError(f"{out} is not a folder. Choose another place with --out.")
        if out.is_dir() and any(out.iterdir()):
            raise ModelError(f"{out} is not empty. Choose another folder with --out.")


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out` to be filled; it becomes `out` once it is whole and on the disk.

    If anything fails nothing is left, so that the same command can be given again. Raises ModelError as `require_free`,
    StudyError if the disk refuses.
    """
    require_free(out)
    make_folder(out.parent)
    place = out.with_name(f".{out.name[:100]}.{secrets.token_hex(8)}")  # cannot be foreseen, and mkdir follows no link
    with told(out):
        place.mkdir()
        try:
            yield place
            sync_all(place)
            place.replace(out)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise


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
