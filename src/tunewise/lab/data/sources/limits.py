"""What a file may cost: a row, and what a packed file becomes, in proportion to its size. A small file stays small."""

import gzip
from pathlib import Path
from typing import NoReturn

from tunewise.errors import DataError

MAX_ROW = 2**24  # characters of a line, a cell or a document; its tokens take a hundred times that in memory
MAX_BLANK_LINES = 1_000_000  # one after another
ANY_FILE = 2**26  # bytes that any file may unpack to, however small it is
# Beyond that, a packed file may unpack to this many times its size. Text in gzip streams by and costs time alone;
# rows that repeat a long instruction become a hundredth. A column of Parquet is in memory a page at a time, and a page
# may be all of it: snappy reaches 21 times, zstd about 50 on such rows. Parquet in gzip is unpacked whole.
TIMES_TEXT = 100
TIMES_COLUMN = 50
TIMES_PARQUET_GZ = 20


def allowed(size: int, times: int) -> int:
    """The bytes that a file of `size` bytes may unpack to."""
    return max(ANY_FILE, times * size)


class Unpacked(gzip.GzipFile):
    """The content of a gzip file, read up to what a file of its size may hold. Raises DataError beyond."""

    def __init__(self, path: Path, times: int) -> None:
        super().__init__(path, "rb")
        self.path = path
        self.most = allowed(path.stat().st_size, times)

    def read(self, size: int | None = -1) -> bytes:
        """As of any file."""
        return self._counted(super().read(self.most + 1 if size is None or size < 0 else size))

    def read1(self, size: int = -1) -> bytes:
        """As of any file."""
        return self._counted(super().read1(size))

    def _counted(self, content: bytes) -> bytes:
        if self.tell() > self.most:
            refuse_unpacked(self.path, self.most)
        return content


def refuse_unpacked(path: Path, most: int) -> NoReturn:
    """Raises DataError for a file that becomes too large."""
    size = path.stat().st_size
    raise DataError(
        f"{path}: has {size:,} bytes and unpacks to more than {most:,}, which is out of proportion. "
        "If you trust it, write its rows as an unpacked .jsonl file."
    )


def too_long(place: str) -> DataError:
    """For a row that has more than MAX_ROW characters."""
    return DataError(
        f"{place}: is longer than {MAX_ROW:,} characters, which is more than one row may have. "
        "Cut it into rows; models read some thousand tokens at once."
    )
