"""Law 41, for data: a path that is read because a file said so stays inside the folder, and is in the fingerprint."""

import json
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tunewise.errors import DataError
from tunewise.inputs.named_path import require_relative
from tunewise.lab.data.sources.sources import read_source, source_fingerprint

ROW = '{"text": "inside"}\n'
SECRET = '{"text": "secret"}\n'
OUTSIDE = [
    "../secret.jsonl",
    "sub/../../secret.jsonl",
    "/etc/hostname",
    "~/secret.jsonl",
    "..\\secret.jsonl",
    "*/../../*.jsonl",
]
ADDRESSES = [
    "http://127.0.0.1:8765/x.jsonl",
    "https://example.org/x.jsonl",
    "hf://datasets/a/b/x.jsonl",
    "file:///etc/hostname",
    "zip://x.jsonl::http://127.0.0.1/x.zip",
    "s3://bucket/x",
    "HTTP://127.0.0.1/x",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder, beside which a secret lies."""
    (tmp_path / "secret.jsonl").write_text(SECRET)
    inside = tmp_path / "d"
    (inside / "sub").mkdir(parents=True)
    (inside / "rows.jsonl").write_text(ROW)
    return inside


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks up a name or connects fails the test."""

    def refused(*of: Any, **options: Any) -> None:
        raise AssertionError(f"asked the network: {of}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def texts(folder: Path) -> list[str]:
    return [row["text"] for _, row in read_source(str(folder), "train", "\n\n\n").read()]


def card(folder: Path, text: str, name: str = "README.md") -> None:
    frame = "---\n{}\n---\n# Data\n" if name == "README.md" else "{}\n"
    (folder / name).write_text(frame.format(text))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", [*OUTSIDE, *ADDRESSES])
@pytest.mark.parametrize(
    "form",
    [
        "configs: [{{config_name: default, data_files: {0}}}]",
        "configs: [{{config_name: default, data_files: [{{split: train, path: [{0}]}}]}}]",
        "configs: [{{config_name: default, data_files: {{train: {0}}}}}]",
        "configs: [{{config_name: default, data_dir: {0}}}]",
        "data_files: {{test: {0}}}",
    ],
)
def test_law_41_a_card_leads_nowhere_else(folder: Path, form: str, name: str) -> None:
    for where in ("README.md", ".huggingface.yaml"):
        card(folder, form.format(json.dumps(name)), where)
        with pytest.raises(DataError, match=r"names .*(the address|outside the folder)"):
            read_source(str(folder), "train", "")
        (folder / where).unlink()


def test_law_41_a_card_that_stays_inside_is_followed_and_is_in_the_fingerprint(folder: Path) -> None:
    (folder / "sub" / "b.jsonl").write_text(ROW.replace("inside", "b"))
    (folder / "sub" / "a.jsonl").write_text(ROW.replace("inside", "a"))
    card(folder, "configs: [{config_name: x, data_files: [{split: train, path: 'sub/*.jsonl'}]}]")
    assert texts(folder) == ["a", "b"]
    before = source_fingerprint(str(folder))
    (folder / "sub" / "b.jsonl").write_text(ROW.replace("inside", "c"))
    assert source_fingerprint(str(folder)) != before


@pytest.mark.parametrize("name", ["train.jsonl", "train-00000-of-00001.jsonl", "train", "README.md", "data", "sub"])
def test_law_41_a_link_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    target = folder.parent / "elsewhere"
    target.mkdir()
    (target / "train.jsonl").write_text(SECRET)
    (folder / "rows.jsonl").unlink()
    (folder / "sub").rmdir()
    is_file = "." in name
    (folder / name).symlink_to(folder.parent / "secret.jsonl" if is_file else target)
    if name == "sub":
        card(folder, "configs: [{config_name: x, data_files: [{split: train, path: 'sub/*.jsonl'}]}]")
    with pytest.raises(DataError, match=r"is a link to .*, outside"):
        read_source(str(folder), "train", "")


def test_law_41_a_link_inside_the_folder_and_the_cache_of_the_hub_are_read(folder: Path) -> None:
    (folder / "train.jsonl").symlink_to("rows.jsonl")
    assert texts(folder) == ["inside"]
    cache = folder.parent / "datasets--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / "0f").write_text(ROW.replace("inside", "cached"))
    (cache / "snapshots" / "1").mkdir(parents=True)
    (cache / "snapshots" / "1" / "train.jsonl").symlink_to("../../blobs/0f")
    assert texts(cache / "snapshots" / "1") == ["cached"]


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/hostname", "http://x/y.arrow", 3, "missing.arrow"])
def test_law_41_the_list_of_a_saved_dataset_leads_nowhere_else(folder: Path, name: Any) -> None:
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match=r"state\.json names|names .* as a data file"):
        read_source(str(folder), "train", "")


def test_law_41_only_listed_files_of_a_saved_dataset_are_read(folder: Path) -> None:
    for name, text in (("data-00000-of-00001.arrow", "listed"), ("data-old.arrow", "not listed")):
        table = pa.table({"text": [text]})
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    assert texts(folder) == ["listed"]


def test_law_41_wildcards_and_names_below_are_taken(tmp_path: Path) -> None:
    for name in ("train.jsonl", "data/train-*.parquet", "a b/ü.csv", "x..y.jsonl"):
        assert require_relative(tmp_path, name, "README.md") == name
