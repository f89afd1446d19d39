"""Files as they are on the disk: read, hashed, listed. What the disk refuses is a StudyError that names the file."""

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from tunewise.errors import StudyError


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


def read_table(path: Path) -> pa.Table:
    """The table of a Parquet file. pyarrow's own `read_table` takes folder names such as `a=b` for columns."""
    with pq.ParquetFile(path) as file:
        return file.read()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises StudyError if the disk refuses."""
    with told(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path: Path) -> bool:
    """True if the file is there and holds what the hash in its name says."""
    return path.is_file() and path.stem.rpartition("-")[2] == file_hash(path)


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
