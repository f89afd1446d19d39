"""Limits of a file: length of a row, and uncompressed size in proportion to the file. A small file stays small."""

import gzip
from pathlib import Path
from typing import NoReturn

from tunewise.errors import DataError

MAX_ROW = 2**24  # characters of a line, a cell or a document; its tokens take a hundred times that in memory
MAX_BLANK_LINES = 1_000_000  # consecutive
ANY_FILE = 2**26  # uncompressed bytes allowed for any file, however small
# Beyond that, a compressed file may expand to this many times its size. Text in gzip streams and costs only time; rows
# that repeat a long instruction shrink to a hundredth. A column of Parquet is in memory one page at a time, and a page
# may be the whole column: snappy reaches 21 times, zstd about 50 on such rows. Parquet in gzip is decompressed as a
# whole.
TIMES_TEXT = 100
TIMES_COLUMN = 50
TIMES_PARQUET_GZ = 20


def allowed(size: int, times: int) -> int:
    """Uncompressed bytes allowed for a file of `size` bytes."""
    return max(ANY_FILE, times * size)


class Unpacked(gzip.GzipFile):
    """Content of a gzip file, up to the limit for its size. Raises DataError beyond."""

    def __init__(self, path: Path, times: int) -> None:
        super().__init__(path, "rb")
        self.path = path
        self.most = allowed(path.stat().st_size, times)

    def read(self, size: int | None = -1) -> bytes:
        """Read as from any file."""
        return self._counted(super().read(self.most + 1 if size is None or size < 0 else size))

    def read1(self, size: int = -1) -> bytes:
        """Read as from any file."""
        return self._counted(super().read1(size))

    def _counted(self, content: bytes) -> bytes:
        if self.tell() > self.most:
            refuse_unpacked(self.path, self.most)
        return content


def refuse_unpacked(path: Path, most: int) -> NoReturn:
    """Raise DataError for a file that expands too much."""
    size = path.stat().st_size
    raise DataError(
        f"{path}: has {size:,} bytes but expands to more than {most:,}, which is suspicious. "
        "If you trust it, write its rows as an uncompressed .jsonl file."
    )


def too_long(place: str) -> DataError:
    """Error for a row of more than MAX_ROW characters."""
    return DataError(
        f"{place}: is longer than the limit of {MAX_ROW:,} characters. "
        "Split it into rows; most models read a few thousand tokens."
    )
