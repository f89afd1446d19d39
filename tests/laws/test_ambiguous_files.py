"""Law 46, for data folders: all files that are meant, or a refusal that names them; never the first by alphabet."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewise.cli.words import data_sources
from tunewise.errors import DataError, SpecError
from tunewise.lab.data.sources.sources import read_source

SHARDS = ["train-00000-of-00003", "train-00001-of-00003", "train-00002-of-00003"]


def write(path: Path, *texts: str) -> None:
    """Rows of these texts, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz")
    rows = [{"text": text} for text in texts]
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return
    content = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows),
        "csv": "\n".join(["text", *texts]),
        "tsv": "\n".join(["text", *texts]),
        "txt": "\n\n\n".join(texts),
    }.get(name.rpartition(".")[2], "?")
    path.write_bytes(gzip.compress(content.encode()) if path.name.endswith(".gz") else content.encode())


def texts(source: str, split: Any = "train") -> list[str]:
    return [row["text"] for _, row in read_source(source, split, "\n\n\n").read()]


@pytest.mark.parametrize(
    "names",
    [
        ["train.jsonl", "train.backup.jsonl"],
        ["train.1.jsonl", "train.2.jsonl"],
        ["train.jsonl", "train.csv"],
        ["train.jsonl", "train.jsonl.gz"],
        ["train.jsonl", "Train.jsonl"],
        ["train.jsonl", "train/rows.jsonl"],
        ["train.jsonl", *(f"{name}.jsonl" for name in SHARDS)],
        [f"{SHARDS[0]}.jsonl", f"{SHARDS[1]}.parquet", f"{SHARDS[2]}.jsonl"],
        ["train/a.jsonl", "train/b.jsonl"],
        ["train-0.jsonl", "train-1.jsonl"],
    ],
)
def test_law_46_several_files_that_could_be_meant_are_refused_by_name(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write(tmp_path / name, name)
    for read in (lambda: data_sources(str(tmp_path)), lambda: read_source(str(tmp_path), "train", "")):
        with pytest.raises((SpecError, DataError), match="is ambiguous, because several files match") as refused:
            read()
        assert all(Path(name).name in str(refused.value) or "/" in name for name in names)
        assert "--data" in str(refused.value)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_law_46_the_other_splits_are_not_guessed_either(tmp_path: Path, split: str) -> None:
    other = {"valid": "dev", "test": "test.old"}[split]
    for name in ("train", split, other):
        write(tmp_path / f"{name}.jsonl", name)
    with pytest.raises(
        SpecError, match=rf"data\.{split} is ambiguous, .*{other}\.jsonl.* Name one \(--set data\.{split}="
    ):
        data_sources(str(tmp_path))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet", "txt", "jsonl.gz"])
@pytest.mark.parametrize("folder", ["", "data/", "train/"])
def test_law_46_all_shards_are_read_in_their_order(tmp_path: Path, suffix: str, folder: str) -> None:
    for name in SHARDS:
        write(tmp_path / f"{folder}{name}.{suffix}", f"{name} a", f"{name} b")
    write(tmp_path / f"dev.{suffix}" if folder == "" else tmp_path / folder / f"dev.{suffix}.bak", "dev")
    source = data_sources(str(tmp_path))["train"]
    assert texts(source) == [f"{name} {row}" for name in SHARDS for row in "ab"]


@pytest.mark.parametrize("kept", [[0, 1], [0, 2], [1, 2], [0], [2]])
def test_law_46_shards_that_are_not_all_there_are_refused(tmp_path: Path, kept: list[int]) -> None:
    for number in kept:
        write(tmp_path / f"{SHARDS[number]}.parquet", "x")
    with pytest.raises(SpecError, match=r"are incomplete: of 3 shards, these are missing"):
        data_sources(str(tmp_path))


def test_law_46_numbered_files_without_their_count_are_all_read_or_refused(tmp_path: Path) -> None:
    for number in range(1, 13):
        write(tmp_path / "a" / f"train-{number:05}.jsonl", str(number))
    assert texts(str(tmp_path / "a")) == [str(number) for number in range(1, 13)]
    (tmp_path / "a" / "train-00007.jsonl").unlink()
    with pytest.raises(DataError, match="these are missing: 7"):
        read_source(str(tmp_path / "a"), "train", "")


@pytest.mark.parametrize("word", ["valid", "validation", "val", "dev", "eval"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet", "txt", "csv.gz"])
def test_law_46_validation_sets_are_found_under_their_usual_names(tmp_path: Path, word: str, suffix: str) -> None:
    for name in ("train", word, "test"):
        write(tmp_path / f"{name}.{suffix}", name)
    for other in ("train.bak", "train.jsonl~", "train.md", "notes.txt", "train.py", ".train.jsonl.swp", "LICENSE"):
        (tmp_path / other).write_text("not data")
    found = data_sources(str(tmp_path))
    assert {split: texts(source) for split, source in found.items()} == {
        "train": ["train"],
        "valid": [word],
        "test": ["test"],
    }


def test_law_46_a_split_in_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "x")
    (tmp_path / "test.jsonl.zst").write_bytes(b"?")
    with pytest.raises(SpecError, match=r"test\.jsonl\.zst: files of kind '\.zst' are not supported"):
        data_sources(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("configs: [{config_name: a, data_files: x.jsonl}, {config_name: b, data_files: y.jsonl}]", "2 configurations"),
        ("configs: [{config_name: a, data_files: x.csv, sep: ';'}]", "sets sep"),
        ("configs: [{config_name: a, data_files: x.jsonl, drop_labels: true}]", "sets drop_labels"),
        ("configs: 3", "must be a list"),
        ("configs: [{config_name: a, data_files: 3}]", "must name files"),
        ("configs: [{config_name: a, data_files: no.jsonl}]", "no such file"),
        ("configs: [", "YAML cannot be read"),
    ],
)
def test_law_46_a_card_that_cannot_be_followed_is_refused(tmp_path: Path, text: str, said: str) -> None:
    for name in ("x.jsonl", "y.jsonl", "x.csv"):
        write(tmp_path / name, "x")
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n")
    with pytest.raises(SpecError, match=said):
        data_sources(str(tmp_path))


def test_law_46_a_card_without_files_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "x")
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: [a]\n---\n# Data\n---\n")
    assert data_sources(str(tmp_path)) == {"train": str(tmp_path / "train.jsonl")}
