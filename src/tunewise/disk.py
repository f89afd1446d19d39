"""Every change of a study folder: filled under another name, synced, renamed. A crash leaves the old or the new.

`fill`, `sync`, `rename`, `remove` and `append` are all that happens to the disk; tests let a process die at each.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from tunewise.errors import StudyError

Take = Callable[[bytes | memoryview], object]  # writes some bytes
TEMPORARY = ".tmp"  # behind the name of what is being written; nothing reads such a file


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either all of it or what it held before, also after a power cut."""
    content = text.encode()  # before the old file is touched: a text that cannot be encoded is no half-written file
    write_with(path, lambda temporary: temporary.write_bytes(content))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file that then becomes `path`. Raises StudyError if the disk refuses; `path` is as before."""
    temporary = path.with_name(path.name + TEMPORARY)
    with told(path), freed(temporary):
        fill(temporary, write)
        sync(temporary)
        rename(temporary, path)
        sync(path.parent)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file as `write_with` writes any."""
    write_with(path, lambda temporary: pq.write_table(table, temporary))


def read_table(path: Path) -> pa.Table:
    """The table of a Parquet file. pyarrow's own `read_table` takes folder names such as `a=b` for columns."""
    with pq.ParquetFile(path) as file:
        return file.read()


def write_hashed(folder: Path, stem: str, suffix: str, write: Callable[[Take], object]) -> Path:
    """`folder/<stem>-<SHA-256><suffix>`, filled by `write`, which is given what takes the bytes.

    The file has that name only once it is whole and was read back as it was written. Raises StudyError otherwise.
    """
    temporary = folder / f"{stem}{suffix}{TEMPORARY}"
    digest = hashlib.sha256()

    def hashing(path: Path) -> None:
        with path.open("wb") as file:

            def take(content: bytes | memoryview) -> None:
                digest.update(content)
                file.write(content)

            write(take)

    with told(temporary), freed(temporary):
        folder.mkdir(exist_ok=True)
        fill(temporary, hashing)
        sync(temporary)
        if file_hash(temporary) != digest.hexdigest():
            raise OSError(errno.EIO, "the disk gave back something else than was written")
        path = folder / f"{stem}-{digest.hexdigest()}{suffix}"
        rename(temporary, path)
        sync(folder)
    return path


def is_whole(path: Path) -> bool:
    """True if the file is there and holds what the hash in its name says."""
    return path.is_file() and path.stem.rpartition("-")[2] == file_hash(path)


def make_folder(folder: Path) -> Path:
    """The folder, which is there when this returns, as are those above it. Raises StudyError if the disk refuses."""
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def delete(path: Path) -> None:
    """Remove a file or a folder, if it is there. A folder takes another name first, so that no half of it is read."""
    with told(path):
        if path.is_dir() and not path.is_symlink() and not path.name.endswith(TEMPORARY):
            doomed = path.with_name(path.name + TEMPORARY)
            if doomed.exists():
                remove(doomed)
            rename(path, doomed)
            remove(doomed)
        elif path.is_symlink() or path.exists():  # of a temporary folder nobody reads a half
            remove(path)


def move(path: Path, to: Path) -> None:
    """Rename a file or folder; a folder that is in the way goes."""
    with told(to):
        if to.is_dir():
            delete(to)
        rename(path, to)
        sync(to.parent)


def sync_all(folder: Path) -> None:
    """What others wrote below `folder` is on the disk when this returns."""
    with told(folder):
        for path in files_below(folder):
            sync(path)


@contextmanager
def freed(temporary: Path) -> Iterator[None]:
    """Removes the temporary file where writing fails: a full disk needs the space."""
    try:
        yield
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def told(path: Path, doing: Literal["read", "write"] = "write") -> Iterator[None]:
    """Turns a refusal of the disk into a StudyError that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors tells what the system said in an error of its own
        reason = getattr(error, "strerror", None) or error
        raise StudyError(
            f"cannot {doing} {path}: {reason}. Mend that and give the same command again: it continues."
        ) from error


# --- the operations --------------------------------------------------------------------------------


def fill(path: Path, write: Callable[[Path], object]) -> None:
    """`write(path)`."""
    write(path)


def sync(path: Path) -> None:
    """The file, or the names in the folder, are on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(path: Path, to: Path) -> None:
    """`to` is what `path` was; a file of that name is replaced."""
    path.replace(to)


def remove(path: Path) -> None:
    """The file, or the folder with all that is in it, is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def append(file: IO[bytes], content: bytes) -> None:
    """Write `content` at the end of an open log."""
    file.write(content)


# --- reading ---------------------------------------------------------------------------------------


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises StudyError if the disk refuses."""
    with told(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """The text of a file, with a sign for every byte that is none. Raises StudyError if the disk refuses."""
    with told(path, "read"):
        return path.read_text(encoding="utf-8", errors="replace")


def is_there(path: Path) -> bool:
    """True for a file, False where there is none. Raises StudyError where one may not look: that is no answer."""
    with told(path, "read"):
        try:
            return stat.S_ISREG(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False


def in_folders(folder: Path, name: str) -> list[Path]:
    """Every file `folder/*/name`, in a fixed order. Raises StudyError where one may not look: glob is silent there."""
    with told(folder, "read"):
        try:
            places = sorted(folder.iterdir())
        except FileNotFoundError:
            return []
    return [path for place in places if is_there(path := place / name)]


def files_below(folder: Path) -> Iterator[Path]:
    """Every regular file below `folder`, in a fixed order."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
