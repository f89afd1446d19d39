"""Reads files that are larger than they should be, and says what that takes in memory.

PYTHONPATH=src python scripts/large_files.py --rows 10000000

A JSON Lines file of that many rows is read row by row; a file of one line of 200 MB is refused. Each is read in a
process of its own, whose peak memory above that after the imports is printed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LINE = 200_000_000  # bytes
READ = """
import resource, sys
from pathlib import Path
from tunewise.errors import DataError
from tunewise.lab.data.files import read_file

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before, rows, said = peak(), 0, ""
try:
    for place, row in read_file(Path(sys.argv[1]), "\\n\\n\\n"):
        rows += 1
except DataError as error:
    said = str(error)
print(peak() - before, rows, said, sep="\\t")
"""


def many_rows(path: Path, count: int) -> None:
    """A JSON Lines file of `count` rows."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps({"prompt": f"question {number}", "completion": f"answer {number}"}) + "\n")


def one_line(path: Path, size: int) -> None:
    """A JSON Lines file of one row of `size` bytes."""
    with path.open("wb") as file:
        file.write(b'{"text": "')
        for _ in range(size // 1_000_000):
            file.write(b"a" * 1_000_000)
        file.write(b'"}\n')


def measure(make: Callable[[Path, int], None], size: int) -> tuple[int, int, str]:
    """Bytes of memory above those after the imports, rows, and what was said."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.jsonl"
        make(path, size)
        done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
        memory, rows, said = done.stdout.rstrip("\n").split("\t")
        return int(memory), int(rows), said.replace(str(path), path.name)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    for make, size in ((one_line, LINE), (many_rows, parser.parse_args().rows)):
        start = time.monotonic()
        memory, rows, said = measure(make, size)
        seconds = time.monotonic() - start
        print(f"{make.__name__} {size:,}: {rows:,} rows, {memory / 2**20:.0f} MiB more, {seconds:.0f} s. {said}")


if __name__ == "__main__":
    main()
