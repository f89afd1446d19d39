"""Law 42: a small file has small costs. What it becomes is bounded by its size, before it is in memory."""

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewise.errors import DataError
from tunewise.lab.data.sources import csv_rows, limits, table_rows
from tunewise.lab.data.sources.files import read_file
from tunewise.text.suggest import near_miss

READER = csv.reader
MIB = 2**20
MOST = 300 * MIB  # of memory for any small file, 64 MiB that it may become and the libraries included
READ = """
import sys
from pathlib import Path
from tunewise.errors import DataError
from tunewise.lab.data.sources.files import read_file

rows, said = 0, ""
try:
    for _ in read_file(Path(sys.argv[1]), "\\n\\n\\n"):
        rows += 1
except DataError as error:
    said = str(error)
# not ru_maxrss, which begins with the peak of the process that started this one
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(rows, int(peak.split()[1]) * 1024, said, sep="\\t")
"""


def one_cell(path: Path) -> None:
    pq.write_table(pa.table({"text": ["a" * 2**28]}), path, compression="zstd")


def one_cell_of_many(path: Path) -> None:
    pq.write_table(pa.table({"text": ["a" * 2**28, *map(str, range(1000))]}), path, compression="zstd")


def one_text_again_and_again(path: Path) -> None:
    pq.write_table(pa.table({"text": pa.DictionaryArray.from_arrays([0] * 3000, ["word " * 240_000])}), path)


def one_text_in_every_turn(path: Path) -> None:
    text = pa.DictionaryArray.from_arrays([0] * 3000, ["word " * 240_000])
    turns = pa.ListArray.from_arrays(range(3001), pa.StructArray.from_arrays([text], ["content"]))
    pq.write_table(pa.table({"messages": turns}), path)


def one_long_list(path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([[0] * 2**25])}), path)


def packed(start: bytes, fill: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        piece = gzip.compress(fill * (16 * MIB // len(fill)), 9)
        path.write_bytes(gzip.compress(start) + piece * 64)  # 1 GiB

    return write


BOMBS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "one cell": ("t.parquet", one_cell),
    "one cell of many": ("t.parquet", one_cell_of_many),
    "one text, repeated": ("t.parquet", one_text_again_and_again),
    "one text in every turn": ("t.parquet", one_text_in_every_turn),
    "one long list": ("t.parquet", one_long_list),
    "zeros in gz": ("t.parquet.gz", packed(b"", bytes(1024))),
    "Parquet with zeros in gz": ("t.parquet.gz", packed(b"PAR1", bytes(1024))),
    "blank lines": ("t.jsonl.gz", packed(b'{"text": "a"}\n', b"\n")),
    "lines of spaces": ("t.csv.gz", packed(b"text\na\n", b"   \n")),
    "empty rows": ("t.jsonl.gz", packed(b"", b'{"text": "' + b" " * 1000 + b'"}\n')),
    "blank documents": ("t.txt.gz", packed(b"a", b"\n")),
    "an array of blank rows": ("t.json.gz", packed(b"[", b'{"text": "' + b" " * 1000 + b'"},')),
    "an array of blanks": ("t.json.gz", packed(b"[", b" ")),
    "blanks before JSON": ("t.json.gz", packed(b"", b"\n")),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
@pytest.mark.parametrize("what", BOMBS)
def test_law_42_a_small_file_is_refused_before_it_is_large(what: str, tmp_path: Path) -> None:
    name, write = BOMBS[what]
    path = tmp_path / name
    write(path)
    assert path.stat().st_size < 4 * MIB
    done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True)
    rows, memory, said = done.stdout.rstrip("\n").split("\t")
    assert name in said, f"{rows} rows, and no word"
    assert any(reason in said for reason in ("suspicious", "longer than", "blank lines", "not a complete"))
    assert int(memory) < MOST


def test_law_42_rows_that_repeat_a_long_text_are_read(tmp_path: Path) -> None:
    instruction = "Answer the question in one word. " * 60
    table = pa.table({"prompt": [f"{instruction} {i}" for i in range(5000)], "system": [instruction] * 5000})
    pq.write_table(table, tmp_path / "t.parquet")
    pq.write_table(table, tmp_path / "z.parquet", compression="zstd")
    text = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    for path in tmp_path.iterdir():
        assert [row for _, row in read_file(path, "")] == table.to_pylist()


class Names(list[str]):
    """The names of columns, which count how often all of them are read."""

    readings = 0

    def __iter__(self) -> Iterator[str]:
        Names.readings += 1
        return super().__iter__()

    def __contains__(self, name: object) -> bool:
        Names.readings += 1
        return super().__contains__(name)

    def count(self, name: str, /) -> int:
        Names.readings += 1
        return super().count(name)


class CountingReader:
    """`csv.reader`, of whose rows every reading is counted."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.reader = READER(*arguments, **options)

    @property
    def line_num(self) -> int:
        return self.reader.line_num

    def __next__(self) -> Names:
        return Names(next(self.reader))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_law_42_the_work_for_many_columns_grows_as_their_number(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in readings of the whole header: a search of it for every name is quadratic."""
    names = [f"c{number}" for number in range(4_000)]
    path = tmp_path / f"t.{suffix}"
    row = dict.fromkeys(names, "x")
    if suffix == "jsonl":
        twice = json.dumps(row)[:-1] + ', "c3999": 1}'
        path.write_text(json.dumps(row) + "\n" + twice)
        with pytest.raises(DataError, match="names 'c3999' twice"):
            list(read_file(path, ""))
        return
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        between = "," if suffix == "csv" else "\t"
        path.write_text("\n".join(between.join(cells) for cells in (names, ["x"] * len(names))))
    distinct = table_rows._require_distinct
    monkeypatch.setattr(table_rows, "_require_distinct", lambda path, names: distinct(path, Names(names)))
    monkeypatch.setattr(csv_rows.csv, "reader", CountingReader)
    monkeypatch.setattr(Names, "readings", 0)
    assert [row for _, row in read_file(path, "")] == [row]
    assert 0 < Names.readings < 20, "a few for all names, not one for each"
    assert near_miss("c4000x", names)


def test_law_42_a_file_of_any_size_has_its_limit() -> None:
    assert limits.allowed(0, limits.TIMES_TEXT) == limits.ANY_FILE
    assert limits.allowed(2**30, limits.TIMES_COLUMN) == 50 * 2**30
