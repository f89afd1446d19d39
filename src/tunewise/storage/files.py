"""Reading, hashing and listing files. A refusal by the disk becomes a StudyError that names the file."""

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from tunewise.errors import StudyError, clause


@contextmanager
def reraise_as_study_error(path: Path, doing: Literal["read", "write"] = "write") -> Iterator[None]:
    """Turn a refusal by the disk into a StudyError that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors wraps system errors in its own
        reason = getattr(error, "strerror", None) or error
        raise StudyError(
            f"cannot {doing} {path}: {clause(reason)}. Fix this and run the same command again; it resumes."
        ) from error


def read_table(path: Path) -> pa.Table:
    """Table of a Parquet file. (pyarrow's own `read_table` reads folder names such as `a=b` as columns.)"""
    with pq.ParquetFile(path) as file:
        return file.read()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises StudyError if the disk refuses."""
    with reraise_as_study_error(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path: Path) -> bool:
    """True if the file exists and matches the hash in its name."""
    return path.is_file() and path.stem.rpartition("-")[2] == file_hash(path)


def read_text(path: Path) -> str:
    """Text of a file, with a replacement for every invalid byte. Raises StudyError if the disk refuses."""
    with reraise_as_study_error(path, "read"):
        return path.read_text(encoding="utf-8", errors="replace")


def is_there(path: Path) -> bool:
    """True for a file, False if there is none. Raises StudyError if access is denied, which says neither."""
    with reraise_as_study_error(path, "read"):
        try:
            return stat.S_ISREG(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False


def in_folders(folder: Path, name: str) -> list[Path]:
    """Every file `folder/*/name`, in a fixed order. Raises StudyError if access is denied, which glob would hide."""
    with reraise_as_study_error(folder, "read"):
        try:
            places = sorted(folder.iterdir())
        except FileNotFoundError:
            return []
    return [path for place in places if is_there(path := place / name)]


def files_below(folder: Path) -> Iterator[Path]:
    """Every regular file below `folder`, in a fixed order."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
