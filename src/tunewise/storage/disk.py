"""Every change of a study folder: filled under another name, synced, renamed. A crash leaves the old or the new.

`fill`, `sync`, `rename`, `remove` and `append` are all that happens to the disk; tests let a process die at each.
Nothing here writes through a link: temporary files get names that nobody can foresee and must not exist yet, and a file
that is changed in place (`open_own`) must be a regular file with one name.
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
from tunewise.storage.files import file_hash, files_below, told

Take = Callable[[bytes | memoryview], object]  # writes some bytes
TEMPORARY = ".tmp"  # ends the name of what is being written or deleted; nothing reads such a file
NOT_ALONE = "it is not a file of the study alone (but a hard link, a named pipe or a device)"
LITTER = re.compile(r".+\.[0-9a-f]{16}\.tmp")  # the name of a temporary file or folder


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either all of it or what it held before, also after a power cut."""
    content = text.encode()  # before the old file is touched: a text that cannot be encoded is no half-written file
    write_with(path, lambda temporary: temporary.write_bytes(content))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file that then becomes `path`. Raises StudyError if the disk refuses; `path` is as before."""
    temporary = temporary_name(path)
    with told(path):
        mode = create(temporary)
        with freed(temporary):
            fill(temporary, write)
            set_mode(temporary, mode)
            sync(temporary)
            rename(temporary, path)
            sync(path.parent)


def write_output(path: Path, write: Callable[[Path], object]) -> None:
    """`write_with` for a file that an option names. Raises StudyError where something else than a file is there."""
    require_output(path)
    write_with(path, write)


def require_output(path: Path, *suffixes: str) -> None:
    """Raises StudyError where an option names neither a new file nor one to replace, or it ends in no `suffixes`."""
    if suffixes and path.suffix not in suffixes:
        raise StudyError(f"cannot write '{path}'. Allowed: names that end in {' or '.join(suffixes)}.")
    with told(path):
        try:
            kind = path.lstat().st_mode
        except FileNotFoundError:
            return
    if not stat.S_ISREG(kind):
        what = "a link" if stat.S_ISLNK(kind) else "a folder" if stat.S_ISDIR(kind) else "not a regular file"
        raise StudyError(f"cannot write '{path}': it is {what}. Give the name of a new file or of one to replace.")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file as `write_with` writes any."""
    write_with(path, lambda temporary: pq.write_table(table, temporary))


def write_hashed(folder: Path, stem: str, suffix: str, write: Callable[[Take], object]) -> Path:
    """`folder/<stem>-<SHA-256><suffix>`, filled by `write`, which is given what takes the bytes.

    The file has that name only once it is whole and was read back as it was written. Raises StudyError otherwise.
    """
    temporary = temporary_name(folder / f"{stem}{suffix}")
    digest = hashlib.sha256()

    def hashing(path: Path) -> None:
        with path.open("wb") as file:

            def take(content: bytes | memoryview) -> None:
                digest.update(content)
                file.write(content)

            write(take)

    with told(folder / f"{stem}{suffix}"):
        folder.mkdir(exist_ok=True)
        mode = create(temporary)
        with freed(temporary):
            fill(temporary, hashing)
            set_mode(temporary, mode)
            sync(temporary)
            if file_hash(temporary) != digest.hexdigest():
                raise OSError(errno.EIO, "the disk gave back something else than was written")
            path = folder / f"{stem}-{digest.hexdigest()}{suffix}"
            rename(temporary, path)
            sync(folder)
    return path


def make_folder(folder: Path) -> Path:
    """The folder, which is there when this returns, as are those above it. Raises StudyError if the disk refuses."""
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when all of it is there; where filling fails, nothing stays.

    Raises ModelError where something is at `path` already, and StudyError where the disk refuses.
    """
    require_new(path)
    path = path.resolve()
    temporary = temporary_name(path)
    with told(path):
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
    """Raises ModelError where a new folder cannot be at `path`: something is there, and it is not an empty folder."""
    with told(path):
        if path.is_dir() and any(path.iterdir()):
            raise ModelError(f"{path} is not empty. Choose another folder with --out.")
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise ModelError(f"{path} is not a folder. Choose another folder with --out.")


def delete(path: Path) -> None:
    """Remove a file or a folder, if it is there. A folder takes another name first, so that no half of it is read."""
    with told(path), suppress(FileNotFoundError):  # another process may have been quicker
        if path.is_dir() and not path.is_symlink() and not LITTER.fullmatch(path.name):
            doomed = temporary_name(path)
            rename(path, doomed)
            remove(doomed)
        elif path.is_symlink() or path.exists():  # of a temporary folder nobody reads a half
            remove(path)


def move(path: Path, to: Path) -> None:
    """Rename a file or folder. A folder that is in the way is gone afterwards; `to` is missing for an instant only."""
    with told(to):
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
    """Remove what commands that died left behind: of these paths, the temporary ones."""
    for path in list(paths):
        if LITTER.fullmatch(path.name):
            delete(path)


def require_space(folder: Path, num_bytes: int) -> None:
    """Raises StudyError where the disk of `folder` has less than `num_bytes` left."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise StudyError(
            f"not enough disk space for {folder}: {free / 2**20:,.0f} MiB free, about "
            f"{num_bytes / 2**20:,.0f} MiB needed. Free some, set `keep: none`, or choose another with --out."
        )


def sync_all(folder: Path) -> None:
    """What others wrote below `folder` is on the disk when this returns."""
    with told(folder):
        for path in files_below(folder):
            sync(path)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nobody can foresee, so that nobody can have put a link there."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{TEMPORARY}")


def create(path: Path) -> int:
    """The mode that a new file gets from the user's umask, after making the file `path`, which must not exist yet."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def open_own(path: Path, flags: int) -> int:
    """The handle of a file that is changed in place, made where it is missing.

    Raises OSError where the path is a link, a named pipe or the like, or a file that has another name elsewhere.
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
    """Give a file that mode: some libraries make files that nobody else may read."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchmod(handle, mode)
    finally:
        os.close(handle)


def set_modes(folder: Path) -> None:
    """Give every file below `folder` the mode of any new file, so that who may read one may read all."""
    with told(folder):
        sample = temporary_name(folder / "mode")
        mode = create(sample)
        sample.unlink()
        for path in files_below(folder):
            set_mode(path, mode)


def hide_like(folder: Path, sources: Iterable[Path]) -> None:
    """Take the right to look into `folder` from those who may not read every file of `sources`."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    for source in sources:
        with suppress(OSError):  # who reads it says what is wrong with it
            for path in [source] if source.is_file() else files_below(source):
                allowed = path.stat().st_mode
                mode &= ~sum(rights for may_read, rights in ((0o040, 0o070), (0o004, 0o007)) if not allowed & may_read)
    folder.chmod(mode)


@contextmanager
def freed(temporary: Path) -> Iterator[None]:
    """Removes the temporary file where writing fails: a full disk needs the space."""
    try:
        yield
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


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
