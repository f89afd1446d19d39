"""Rows that are not drawn leave no text behind, and what is drawn is what it would be with all of them in memory."""

import csv
import gzip
import hashlib
import json
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import Prepared, documents, make_study, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise.errors import DataError
from tunewise.lab.data.audit import Separated, drop_duplicates
from tunewise.lab.data.rows import Row, input_key
from tunewise.lab.data.sources.row_index import Indexed, Source, index_rows
from tunewise.lab.data.sources.sources import Table
from tunewise.lab.data.splits import SPLITS, position
from tunewise.spec import DataSpec, Split, canonical_json

Rows = dict[Split, list[Row]]
Outcome = tuple[Rows, list[str], dict[Split, int], dict[Split, list[str]]] | str  # rows, notes, dropped, same; or error


def drawn_of(sources: Mapping[Split, Source], data: DataSpec) -> tuple[Rows, Indexed, Separated]:
    """The rows that are drawn, and what they are drawn from."""
    indexed = index_rows(sources, data)
    separated = drop_duplicates(indexed, data)
    chosen = {split: rows.draw(getattr(data.limit, split)) for split, rows in separated.rows.items()}
    return indexed.fetch(chosen), indexed, separated


def chosen(sources: Mapping[Split, Source], data: DataSpec) -> Outcome:
    """What is drawn, and what is said."""
    try:
        rows, indexed, separated = drawn_of(sources, data)
    except DataError as error:
        return str(error)
    same = {split: list(found.ids()) for split, found in separated.same.items()}
    return rows, list(indexed.notes), separated.dropped, same


def plainly_chosen(sources: Mapping[Split, Source], data: DataSpec) -> Outcome:
    """The same with every row in memory, in lists and sets."""
    try:
        rows, notes = plainly_divided(sources, data)
        dropped, same = plainly_separated(rows, data)
    except DataError as error:
        return str(error)
    for split, members in rows.items():
        by_hash = sorted(members, key=lambda row: (position(row.example), row.example))
        drawn = by_hash[: getattr(data.limit, split)]
        rows[split] = [row for row in members if row in drawn]
    return rows, notes, dropped, same


def plainly_divided(sources: Mapping[Split, Source], data: DataSpec) -> tuple[Rows, list[str]]:
    notes = []
    rows: Rows = {split: [] for split in SPLITS}
    missing = [split for split in SPLITS if split not in sources]
    for split, source in sources.items():
        kept, number = [], 0
        for number, cells in enumerate(source.table.cells({}), start=1):
            text = source.form.render(cells)
            if text is not None:
                key = input_key(text.prompt)
                unit = cells.filled(data.group, "data.group") if data.group else key
                kept.append(Row(f"{split}:{number}", unit, key, text))
        if not kept:
            raise DataError(f"{split}.jsonl: no text in any of its {number} rows, so there is nothing to train on.")
        if len(kept) < number:
            notes.append(f"{number - len(kept)} of {number} rows of {split} were left out: no text.")
        for row in kept:
            place, to = position(row.unit), split
            if split == "train" and "valid" in missing and place < data.split.valid:
                to = "valid"
            elif split == "train" and "test" in missing and place >= 1 - data.split.test:
                to = "test"
            rows[to].append(row)
    unit = f"same {data.group}" if data.group else "document"
    parts = ["train", *missing] if missing else []
    all_rows = [row for split in parts for row in rows[split]]
    num_units = len({row.unit for row in all_rows})
    for split in parts:
        if not rows[split]:
            start = f"train.jsonl: its {num_units} units ({unit}) are too few to make {' and '.join(missing)}: {split}"
            raise DataError(start)
    for split in missing:
        units = len({row.unit for row in rows[split]})
        notes.append(
            f"{split} was split off train by a hash of the unit ({unit}): {len(rows[split])} of {len(all_rows)} rows, "
            f"{units} of {num_units} units."
        )
    return rows, notes


def plainly_separated(rows: Rows, data: DataSpec) -> tuple[dict[Split, int], dict[Split, list[str]]]:
    dropped: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    found: dict[Split, list[str]] = {}
    held_out = {row.key for row in rows["valid"] + rows["test"]}
    for split, others in (("train", "valid or test"), ("valid", "test")):
        same = [row for row in rows[split] if row.key in held_out]
        found[split] = [row.example for row in same]
        finding = f"{len(same)} of {len(rows[split])} rows of {split} have an input that {others} also contains"
        if same and data.duplicates == "error":
            prompt = same[0].text.prompt.strip()
            raise DataError(f"{finding}: {', '.join(found[split][:3])}; the first is {prompt!r}")
        if same and data.duplicates == "drop":
            rows[split] = [row for row in rows[split] if row.key not in held_out]
            dropped[split] = len(same)
            if not rows[split]:
                raise DataError(f"{finding}, so {split} would be empty.")
        held_out = {row.key for row in rows["test"]}
    return dropped, found


ODD = [{"text": None}, {"text": 3}, {"by": "x"}, {"text": "a", "by": ""}]
GIVEN: list[tuple[Split, ...]] = [("train",), ("train", "test"), ("train", "valid"), SPLITS]
cells = st.builds(
    lambda number, space, by: {"text": f"a{space}{number}" if number else space, "by": by},
    st.integers(0, 50),
    st.sampled_from([" ", "  ", "\n"]),
    st.integers(0, 20) | st.sampled_from(["7", "y", "z"]),
)


@st.composite
def tables(draw: st.DrawFn) -> dict[Split, list[dict[str, Any]]]:
    """Rows of some splits, a few with nothing to train on; now and then one that cannot be used."""
    rows = {
        split: draw(st.lists(cells, min_size=15 if split == "train" else 1, max_size=40))
        for split in draw(st.sampled_from(GIVEN))
    }
    if draw(st.sampled_from([False] * 7 + [True])):
        members = rows[draw(st.sampled_from(sorted(rows)))]
        members.insert(draw(st.integers(0, len(members))), draw(st.sampled_from(ODD)))
    return rows


settings_of_data = st.builds(
    DataSpec,
    train=st.just("train.jsonl"),
    group=st.sampled_from([None, "by"]),
    split=st.just({"valid": 0.3, "test": 0.3}),
    duplicates=st.sampled_from(["drop", "drop", "keep", "error"]),
    limit=st.fixed_dictionaries({split: st.none() | st.integers(1, 8) for split in SPLITS}),
)


@settings(max_examples=300, deadline=None)
@given(tables(), settings_of_data)
def test_what_is_drawn_and_said_is_what_it_would_be_with_all_rows_in_memory(
    rows: dict[Split, list[dict[str, Any]]], data: DataSpec
) -> None:
    sources = documents(rows, data)
    plain, found = plainly_chosen(sources, data), chosen(sources, data)
    if isinstance(plain, str):
        assert isinstance(found, str)
        assert found.startswith(plain)
    else:
        assert found == plain


@pytest.mark.parametrize("group", [None, "by"])  # with a group, inputs stand in two splits and are dropped
def test_a_row_that_is_not_drawn_takes_40_bytes_at_most(group: str | None) -> None:
    data = DataSpec(train="t", group=group, limit=dict.fromkeys(SPLITS, 50))
    source = documents({"train": []}, data)["train"]

    def peak(count: int) -> int:
        def rows() -> Iterator[tuple[int, dict[str, Any]]]:
            return ((number, {"text": f"text {number // 2}", "by": f"by {number}"}) for number in range(count))

        tracemalloc.start()
        try:
            drawn, _, separated = drawn_of({"train": replace(source, table=Table("t", "line", rows))}, data)
            memory = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert [len(drawn[split]) for split in SPLITS] == [50, 50, 50]
        assert (separated.dropped["train"] > 0) == (group is not None)
        return memory

    assert peak(24_000) - peak(4_000) < 40 * 20_000


CHANGES: dict[str, Callable[[Path], object]] = {
    "rows fewer": lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:1])),
    "inputs others": lambda path: path.write_text(path.read_text().replace("question", "riddle")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_between_its_readings_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"text": f"question {number}"} for number in range(50)]
    write_rows(path, rows)
    data = DataSpec(train=str(path), limit={"train": 5})
    source = documents({"train": rows}, data)["train"]

    def read() -> Iterator[tuple[int, dict[str, Any]]]:
        return ((number, json.loads(line)) for number, line in enumerate(path.open(), start=1))

    indexed = index_rows({"train": Source("train", Table("t.jsonl", "line", read), source.form, {}, None)}, data)
    CHANGES[change](path)
    with pytest.raises(DataError, match=r"t\.jsonl: changed while it was read"):
        indexed.fetch({split: rows.draw(5) for split, rows in indexed.rows.items()})


# --- what was prepared before rows were read twice --------------------------------------------------

PAIRS = [{"prompt": f"question {n // 2 % 41}", "completion": f"answer {n}", "by": f"a{n % 57}"} for n in range(120)]
TEST = [{"prompt": f"question {n}", "completion": f"other {n}", "by": "b"} for n in range(35, 60)]
VALID = [{"prompt": f"question {n}", "completion": f"other {n}", "by": "c"} for n in range(55, 70)]
TEXT = [{"text": f"text {n % 90} of {n % 7}" if n % 11 else " ", "label": f"{n % 3}"} for n in range(150)]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"question {n % 40}", "name": None},
            {"role": "assistant", "content": f"answer {n}", "name": "b"},
        ][: 1 if n % 9 == 0 else 2]
    }
    for n in range(100)
]
LIMIT = {"train": 20, "valid": 5, "test": 6}


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_folder(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.mkdir()
    datasets.Dataset.from_list(list(rows)).to_parquet(path / "train.parquet")


def write_packed(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


WRITERS: dict[str, Callable[[Path, Sequence[dict[str, Any]]], object]] = {
    ".jsonl": lambda path, rows: write_rows(path, list(rows)),
    ".json": lambda path, rows: path.write_text(json.dumps(rows)),
    ".csv": write_csv,
    ".parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(list(rows)), path),
    ".jsonl.gz": write_packed,
    "-folder": write_folder,
    ".txt": lambda path, rows: path.write_text("\n\n\n".join(row["text"] for row in rows)),
}
# (rows, settings of the data, ending of the file, 16 digits of a hash of what became of them)
Case = tuple[list[dict[str, Any]], dict[str, Any], str, str]
CASES: dict[str, Case] = {
    "all pairs": (PAIRS, {}, ".jsonl", "b11210ce2aa5276b"),
    **{f"pairs of {end}": (PAIRS, {"limit": LIMIT}, end, "05fb8851a67d4b3d") for end in WRITERS if end != ".txt"},
    "train limited": (PAIRS, {"limit": {"train": 9}}, ".jsonl", "8b167f8dd791ab09"),
    "grouped": (PAIRS, {"group": "by", "limit": LIMIT}, ".jsonl", "d0df292112209ddf"),
    "grouped and kept": (PAIRS, {"group": "by", "duplicates": "keep", "limit": LIMIT}, ".jsonl", "50878f0f3c02048a"),
    "test given": (PAIRS, {"test": "test", "limit": LIMIT}, ".jsonl", "924e20fc8811b45f"),
    "test and valid given": (PAIRS, {"test": "test", "valid": "valid", "limit": LIMIT}, ".jsonl", "78e3009e6746dcf6"),
    "kept": (PAIRS, {"test": "test", "duplicates": "keep", "limit": LIMIT}, ".jsonl", "5612bac76e9c885f"),
    "chat": (CHATS, {"limit": LIMIT}, ".jsonl", "7e67e8b1170e9f67"),
    "chat in parquet": (CHATS, {"limit": LIMIT}, ".parquet", "7e67e8b1170e9f67"),
    "labels": ([row for row in TEXT if row["text"].strip()], {"limit": LIMIT}, ".csv", "f86eff1d3b6143fc"),
    "some left out": ([{"text": row["text"]} for row in TEXT], {"limit": LIMIT}, ".jsonl", "fd1b90c135157cea"),
    "documents": (TEXT, {"columns": {"text": "text"}, "limit": LIMIT}, ".txt", "10bf84714c9efd87"),
}


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize("name", CASES)
def test_the_prepared_data_is_that_of_before(name: str, tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    rows, settings, end, expected = CASES[name]
    files = {"train": rows, "valid": VALID, "test": TEST}
    data = {**settings, "train": "train"}
    for split in ("train", "valid", "test"):
        if split in data:
            data[split] = str(tmp_path / f"{split}{end}")
            WRITERS[end](Path(data[split]), files[split])
    summary = prepare(make_study(data)).summary
    told = [
        summary.data,
        summary.notes,
        [(split.rows_read, split.rows, split.units, split.duplicates_dropped) for split in summary.splits],
        [(law.law, law.count, law.examples) for law in summary.laws],
        [summary.exact_duplicates, summary.near_duplicates],
    ]
    assert hashlib.sha256(canonical_json(told).encode()).hexdigest()[:16] == expected
