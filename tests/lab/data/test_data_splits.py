"""Splits and draws: whole units, by hashes, the same every time."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Prepared, documents, make_row, make_study, write_rows

from tunewise.lab.data.rows import Row
from tunewise.lab.data.sources.row_index import index_rows
from tunewise.lab.data.splits import draw, position
from tunewise.spec import DataSpec, Split


def rows_of(numbers: list[int], per_unit: int = 3) -> list[Row]:
    return [make_row(f"prompt {number // per_unit}", "a", f"train:{number}") for number in numbers]


def split_off(rows: list[Row], data: DataSpec, **given: list[Row]) -> dict[Split, list[Row]]:
    """The splits of rows of which some splits are given, by the names of their files."""
    given["train"] = rows
    tables = {split: [{"text": row.text.prompt} for row in members] for split, members in given.items()}
    indexed = index_rows(documents(tables, data), data)
    return indexed.fetch(indexed.rows)


def sides(rows: list[Row], data: DataSpec, **given: list[Row]) -> dict[str, Split]:
    return {row.unit: split for split, members in split_off(rows, data, **given).items() for row in members}


def test_no_unit_is_on_two_sides_and_no_row_is_lost() -> None:
    rows = rows_of(list(range(900)))
    divided = split_off(rows, DataSpec(train="t"))
    units = [{row.unit for row in members} for members in divided.values()]
    assert sum(len(members) for members in divided.values()) == 900
    assert sum(map(len, units)) == len(set.union(*units)) == 300


def test_shares_are_of_the_units() -> None:
    rows = rows_of(list(range(6000)), per_unit=1)
    data = DataSpec(train="t", split={"valid": 0.1, "test": 0.25})
    divided = split_off(rows, data)
    # four standard deviations of a binomial share of 6,000
    assert len(divided["valid"]) / 6000 == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 6000) ** 0.5)
    assert len(divided["test"]) / 6000 == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 6000) ** 0.5)


def test_a_unit_stays_on_its_side_when_rows_are_added_or_moved() -> None:
    data = DataSpec(train="t")
    few, many = rows_of(list(range(300))), rows_of(list(range(900)))
    random.Random(0).shuffle(many)
    before, after = sides(few, data), sides(many, data)
    assert before.items() <= after.items()


@pytest.mark.parametrize(("given", "made"), [("test", "valid"), ("valid", "test")])
def test_giving_one_split_leaves_the_other_as_it_was(given: Split, made: Split) -> None:
    data, rows = DataSpec(train="t"), rows_of(list(range(900)))
    before = {unit for unit, split in sides(rows, data).items() if split == made}
    after = sides(rows, data, **{given: [make_row("another", "a", f"{given}:1")]})
    assert {unit for unit, split in after.items() if split == made} == before


def test_a_smaller_draw_is_part_of_a_larger_one_in_the_order_of_the_source() -> None:
    rows = rows_of(list(range(500)))
    drawn = {limit: draw(rows, limit) for limit in (1, 10, 200, 500, 900)}
    for small, large in ((1, 10), (10, 200), (200, 500)):
        assert len(drawn[small]) == small
        assert [row for row in drawn[large] if row in drawn[small]] == drawn[small]
    assert drawn[500] == drawn[900] == draw(rows, None) == rows
    assert [rows.index(row) for row in drawn[200]] == sorted(rows.index(row) for row in drawn[200])


def test_a_draw_comes_evenly_from_the_whole_source() -> None:
    chosen = [int(row.example.removeprefix("train:")) for row in draw(rows_of(list(range(10_000))), 1000)]
    # 250 expected in each quarter, standard deviation 13
    assert all(abs(sum(low <= number < low + 2500 for number in chosen) - 250) < 52 for low in range(0, 10_000, 2500))


def test_positions_depend_on_the_name_alone() -> None:
    # the first 8 bytes of SHA-256("abc") are ba7816bf 8f01cfea
    assert position("abc") == 0xBA7816BF8F01CFEA / 2**64


def test_a_group_column_is_the_unit(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"p {i}", "completion": "c", "author": {0: i % 40, 1: f"{i % 40}"}[i % 2]} for i in range(400)
    ]
    prepared = prepare(make_study({"train": write_rows(tmp_path / "t.jsonl", rows), "group": "author"}))
    units = {split: {row["unit"] for row in table} for split, table in prepared.tables.items()}
    assert set.union(*units.values()) == {str(i) for i in range(40)}
    assert sum(map(len, units.values())) == 40
    assert any("same author" in note for note in prepared.summary.notes)


@pytest.mark.slow
def test_the_unit_of_the_standard_library_is_the_module(prepare: Callable[..., Prepared]) -> None:
    prepared = prepare(make_study({"train": "builtin:stdlib", "limit": {"train": 50, "valid": 20, "test": 20}}))
    units = {split: {row["unit"] for row in table} for split, table in prepared.tables.items()}
    assert not units["train"] & units["test"]
    assert not units["train"] & units["valid"]
    assert all(name.isidentifier() for unit in units["train"] for name in unit.split("."))
