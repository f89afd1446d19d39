"""Changes of a study folder: written under another name, synced, renamed. A crash leaves the old or the new state.

Only `fill`, `sync`, `rename`, `remove` and `append` touch the disk; tests kill a process at each of them. Nothing here
writes through a link: temporary files get unpredictable names that must not exist yet, and a file that is changed in
place (`open_own`) must be a regular file with a single name.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from tunewise.errors import ModelError, StudyError
from tunewise.storage.files import file_hash, files_below, reraise_as_study_error

Take = Callable[[bytes | memoryview], object]  # writes some bytes
TEMPORARY = ".tmp"  # suffix of what is being written or deleted; nothing reads such a file
NOT_ALONE = "it is not a regular file of this study only, but a hard link, a named pipe or a device"
LITTER = re.compile(r".+\.[0-9a-f]{16}\.tmp")  # name of a temporary file or folder


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds all of it or its old content, even after a power failure."""
    content = text.encode()  # before the old file is touched: text that cannot be encoded leaves no partial file
    write_with(path, lambda temporary: temporary.write_bytes(content))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file that then replaces `path` as a whole. Raises StudyError if the disk refuses."""
    temporary = temporary_name(path)
    with reraise_as_study_error(path):
        mode = create(temporary)
        with freed(temporary):
            fill(temporary, write)
            set_mode(temporary, mode)
            sync(temporary)
            rename(temporary, path)
            sync(path.parent)


def write_output(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file that an option names. Raises StudyError if something other than a file is there."""
    require_output(path)
    write_with(path, write)


def require_output(path: Path, *suffixes: str) -> None:
    """Raise StudyError unless `path` is a new file or a file to replace, with one of the `suffixes`."""
    if suffixes and path.suffix not in suffixes:
        raise StudyError(f"cannot write '{path}'. Allowed: names that end in {' or '.join(suffixes)}.")
    with reraise_as_study_error(path):
        try:
            kind = path.lstat().st_mode
        except FileNotFoundError:
            return
    if not stat.S_ISREG(kind):
        what = "a link" if stat.S_ISLNK(kind) else "a folder" if stat.S_ISDIR(kind) else "not a regular file"
        raise StudyError(f"cannot write '{path}': it is {what}. Give the name of a new file or of one to replace.")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file as `write_with` does."""
    write_with(path, lambda temporary: pq.write_table(table, temporary))


def write_hashed(folder: Path, stem: str, suffix: str, write: Callable[[Take], object]) -> Path:
    """Path of `folder/<stem>-<SHA-256><suffix>`, filled by `write`, which receives a function that takes bytes.

    The file gets that name only once it is complete and was read back correctly. Raises StudyError otherwise.
    """
    temporary = temporary_name(folder / f"{stem}{suffix}")
    digest = hashlib.sha256()

    def hashing(path: Path) -> None:
        with path.open("wb") as file:

            def take(content: bytes | memoryview) -> None:
                digest.update(content)
                file.write(content)

            write(take)

    with reraise_as_study_error(folder / f"{stem}{suffix}"):
        folder.mkdir(exist_ok=True)
        mode = create(temporary)
        with freed(temporary):
            fill(temporary, hashing)
            set_mode(temporary, mode)
            sync(temporary)
            if file_hash(temporary) != digest.hexdigest():
                raise OSError(errno.EIO, "the disk returned other data than was written")
            path = folder / f"{stem}-{digest.hexdigest()}{suffix}"
            rename(temporary, path)
            sync(folder)
    return path


def make_folder(folder: Path) -> Path:
    """Create the folder and its parents, unless they exist. Raises StudyError if the disk refuses."""
    with reraise_as_study_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when complete; if filling fails, nothing remains.

    Raises ModelError if something is at `path` already, and StudyError if the disk refuses.
    """
    require_new(path)
    path = path.resolve()
    temporary = temporary_name(path)
    with reraise_as_study_error(path):
        make_folder(path.parent)
        temporary.mkdir()
        try:
            yield temporary
            set_modes(temporary)
            sync_all(temporary)
            rename(temporary, path)
            sync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def require_new(path: Path) -> None:
    """Raise ModelError if a new folder cannot be at `path`: something other than an empty folder is there."""
    with reraise_as_study_error(path):
        if path.is_dir() and any(path.iterdir()):
            raise ModelError(f"{path} is not empty. Choose another folder with --out.")
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise ModelError(f"{path} is not a folder. Choose another folder with --out.")


def delete(path: Path) -> None:
    """Remove a file or a folder, if it exists. A folder is renamed first, so that no partial folder is read."""
    with reraise_as_study_error(path), suppress(FileNotFoundError):  # another process may have been faster
        if path.is_dir() and not path.is_symlink() and not LITTER.fullmatch(path.name):
            doomed = temporary_name(path)
            rename(path, doomed)
            remove(doomed)
        elif path.is_symlink() or path.exists():  # nobody reads partial temporary folders
            remove(path)


def move(path: Path, to: Path) -> None:
    """Rename a file or folder. A folder already at `to` is removed; `to` is missing only for an instant."""
    with reraise_as_study_error(to):
        if not to.is_dir():
            rename(path, to)
            sync(to.parent)
            return
        doomed = temporary_name(to)
        rename(to, doomed)
        rename(path, to)
        sync(to.parent)
        remove(doomed)


def sweep(paths: Iterable[Path]) -> None:
    """Remove the temporary files among these paths, which commands that died left behind."""
    for path in list(paths):
        if LITTER.fullmatch(path.name):
            delete(path)


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise StudyError if the disk of `folder` has less than `num_bytes` left."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise StudyError(
            f"not enough disk space for {folder}: {free / 2**20:,.0f} MiB free, about "
            f"{num_bytes / 2**20:,.0f} MiB needed. Free some, set `keep: none`, or use another disk with --out."
        )


def sync_all(folder: Path) -> None:
    """Sync everything that others wrote below `folder`."""
    with reraise_as_study_error(folder):
        for path in files_below(folder):
            sync(path)


def temporary_name(path: Path) -> Path:
    """An unpredictable name next to `path`, so that nobody can have put a link there."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{TEMPORARY}")


def create(path: Path) -> int:
    """Create the file `path`, which must not exist; return the mode that the umask gives a new file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def open_own(path: Path, flags: int) -> int:
    """Handle of a file that is changed in place, created if missing.

    Raises OSError if the path is a link, a named pipe or the like, or a file with another name elsewhere.
    """
    try:
        handle = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        known = {errno.ELOOP: "it is a link", errno.ENXIO: NOT_ALONE}  # ENXIO: a pipe that nobody reads
        raise OSError(error.errno, known.get(error.errno or 0, error.strerror)) from error
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, NOT_ALONE)


def set_mode(path: Path, mode: int) -> None:
    """Set the mode of a file; some libraries create files that nobody else may read."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchmod(handle, mode)
    finally:
        os.close(handle)


def set_modes(folder: Path) -> None:
    """Give every file below `folder` the mode of a new file, so that whoever may read one may read all."""
    with reraise_as_study_error(folder):
        sample = temporary_name(folder / "mode")
        mode = create(sample)
        sample.unlink()
        for path in files_below(folder):
            set_mode(path, mode)


def hide_like(folder: Path, sources: Iterable[Path]) -> None:
    """Remove access to `folder` for those who may not read every file of `sources`."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    for source in sources:
        with suppress(OSError):  # reading the source reports what is wrong with it
            for path in [source] if source.is_file() else files_below(source):
                allowed = path.stat().st_mode
                mode &= ~sum(rights for may_read, rights in ((0o040, 0o070), (0o004, 0o007)) if not allowed & may_read)
    folder.chmod(mode)


@contextmanager
def freed(temporary: Path) -> Iterator[None]:
    """Remove the temporary file if writing fails: a full disk needs the space."""
    try:
        yield
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


# --- the operations --------------------------------------------------------------------------------


def fill(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(path)`."""
    write(path)


def sync(path: Path) -> None:
    """Wait until the file, or the names in the folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(path: Path, to: Path) -> None:
    """Rename `path` to `to`, replacing a file of that name."""
    path.replace(to)


def remove(path: Path) -> None:
    """Remove the file, or the folder with everything in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def append(file: IO[bytes], content: bytes) -> None:
    """Append `content` to an open log."""
    file.write(content)
