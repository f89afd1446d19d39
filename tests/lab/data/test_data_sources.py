"""Rows come out of every kind of file as they went in."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewise.errors import DataError
from tunewise.lab.data.sources.sources import read_source, source_fingerprint
from tunewise.spec import Split

ROWS = [{"text": 'one, "two"\nthree', "label": "a"}, {"text": "naïve 雪 ", "label": "b"}]


def rows_of(source: Path, split: Split = "train", separator: str = "\n\n\n") -> list[dict[str, Any]]:
    return [row for _, row in read_source(str(source), split, separator).read()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    plain = path.with_name("plain." + kind)
    if kind == "jsonl":
        plain.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif kind == "json":
        plain.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    elif kind == "csv":
        with plain.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), plain)
    content = plain.read_bytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str, packed: str) -> None:
    path = tmp_path / f"rows.{kind}{packed}"
    write(path, ROWS)
    assert rows_of(path) == ROWS


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "txt"])
def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    if kind == "txt":
        path.write_text("hello", encoding="utf-8")
    else:
        write(path, [{"text": "hello"}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert rows_of(path) == [{"text": "hello"}]


def test_only_newlines_end_a_json_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a\u2028b\u0085c"}\n\n{"text": "d"}\r\n', encoding="utf-8", newline="")
    cells = list(read_source(str(path), "train", "\n\n\n").cells({}))
    assert [row.row["text"] for row in cells] == ["a\u2028b\u0085c", "d"]
    assert cells[1].place == f"{path}, line 3"


def test_a_csv_row_stands_where_its_first_line_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"two\nlines",a\nplain,b\n')
    assert [place for place, _ in read_source(str(path), "train", "\n\n\n").read()] == [2, 4]


def test_a_csv_cell_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "a" * 200_000)
    assert len(rows_of(path)[0]["text"]) == 200_000


def test_documents_are_cut_at_the_separator_whatever_the_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"one\r\nline\r\n\r\n\r\ntwo\n\n\n\n\n\nthree\n")
    assert [row["text"] for row in rows_of(path)] == ["one\nline", "two", "three"]
    assert len(rows_of(path, separator="no such")) == 1


@pytest.mark.usefixtures("datasets_cache")
def test_a_folder_is_read_as_a_dataset_with_its_splits_and_label_names(tmp_path: Path) -> None:
    folder = tmp_path / "reviews"
    folder.mkdir()
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    for split, text, label in (("train", "fine", 1), ("validation", "poor", 0), ("test", "hidden", -1)):
        rows = datasets.Dataset.from_dict({"text": [text], "label": [label]}, features=features)
        rows.to_parquet(folder / f"{split}.parquet")
    assert rows_of(folder) == [{"text": "fine", "label": "good"}]
    assert rows_of(folder, "valid") == [{"text": "poor", "label": "bad"}]
    assert rows_of(folder, "test") == [{"text": "hidden", "label": None}]
    (folder / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"no split for data.test.*It has: train, valid"):
        read_source(str(folder), "test", "")


def test_a_name_with_owner_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def splits(path: str, configuration: str | None) -> list[str]:
        asked.append((path, configuration))
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "get_dataset_split_names", splits)
    with pytest.raises(DataError, match=r"owner/name:small: .*no network\. Check the name.*and the network"):
        read_source("owner/name:small", "train", "")
    assert asked == [("owner/name", "small")]
    with pytest.raises(DataError, match="no such file"):
        read_source("owner/name.jsonl", "train", "")


def test_a_fingerprint_is_of_the_contents_not_of_the_name(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    write(first, ROWS)
    write(second, ROWS)
    write(other, ROWS[:1])
    assert source_fingerprint(str(first)) == source_fingerprint(str(second)) != source_fingerprint(str(other))
    folder = source_fingerprint(str(tmp_path))
    write(other, ROWS)
    assert source_fingerprint(str(tmp_path)) != folder
