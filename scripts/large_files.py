"""Read and prepare oversized files, and print how much memory that takes.

PYTHONPATH=src python scripts/large_files.py --rows 10000000

A JSON Lines file of that many rows is read row by row, and prepared for a study that draws 2,400 of them
(`data.limit`). A file with one line of 200 MB is refused. Each case runs in its own process. The script prints its peak
memory minus the memory after the imports.
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
PEAK = """
import resource, sys
from pathlib import Path

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

path = Path(sys.argv[1])
"""
READ = f"""{PEAK}
from tunewise.errors import DataError
from tunewise.lab.data.sources.files import read_file

before, rows, said = peak(), 0, ""
try:
    for place, row in read_file(path, "\\n\\n\\n"):
        rows += 1
except DataError as error:
    said = str(error)
print(peak() - before, rows, said, sep="\\t")
"""
PREPARE = f"""{PEAK}
from tunewise.lab.data.prepare import prepare_examples
from tunewise.lab.models.load import load_config, load_tokenizer
from tunewise.spec import StudySpec

study = StudySpec.model_validate({{
    "name": "large", "arms": {{"full": {{"method": "full"}}}}, "forgetting": {{"tokens": 0}},
    "data": {{"train": str(path), "limit": {{"train": 2000, "valid": 200, "test": 200}}}},
}})
tokenizer = load_tokenizer("tiny", load_config("tiny", "sft", False), False)
before = peak()
prepared = prepare_examples(study, tokenizer, 512, path.parent / "prepared", (tokenizer.eos_token_id,))
print(peak() - before, sum(split.rows_read for split in prepared.splits), " ".join(prepared.notes), sep="\\t")
"""


def many_rows(path: Path, count: int) -> None:
    """Write a JSON Lines file of `count` rows."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps({"prompt": f"question {number}", "completion": f"answer {number}"}) + "\n")


def one_line(path: Path, size: int) -> None:
    """Write a JSON Lines file with one row of `size` bytes."""
    with path.open("wb") as file:
        file.write(b'{"text": "')
        for _ in range(size // 1_000_000):
            file.write(b"a" * 1_000_000)
        file.write(b'"}\n')


def measure(make: Callable[[Path, int], None], size: int, program: str = READ) -> tuple[int, int, str]:
    """Bytes of memory beyond the imports, number of rows, and message."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.jsonl"
        make(path, size)
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        memory, rows, said = done.stdout.rstrip("\n").split("\t")
        return int(memory), int(rows), said.replace(str(path), path.name)


def main() -> None:
    """Run and print all three cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    num_rows = parser.parse_args().rows
    for what, make, size, program in (
        ("one line read", one_line, LINE, READ),
        ("many rows read", many_rows, num_rows, READ),
        ("many rows prepared", many_rows, num_rows, PREPARE),
    ):
        start = time.monotonic()
        memory, rows, said = measure(make, size, program)
        seconds = time.monotonic() - start  # the file is written during this time
        print(f"{what}: {rows:,} rows, {memory / 2**20:.0f} MiB more, {seconds:.0f} s. {said}", flush=True)


if __name__ == "__main__":
    main()
