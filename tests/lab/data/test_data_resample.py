"""Draws of another training and validation set by seed: whole units, by hashes, and no input in both."""

import random
from dataclasses import dataclass

import pytest

from tunewise.errors import DataError
from tunewise.lab.data.splits import redraw


@dataclass(frozen=True)
class Window:
    """One example; only what a draw reads."""

    example: str
    unit: str
    prompt: str
    reference: str = ""


def windows(num_units: int, most_rows: int = 1, split: str = "train") -> list[Window]:
    """Units of 1 to `most_rows` rows, each row with an input of its own."""
    sizes = random.Random(split)
    return [
        Window(f"{split}:{unit}.{row}", f"{split} {unit}", f"{split} {unit} {row}")
        for unit in range(num_units)
        for row in range(sizes.randint(1, most_rows))
    ]


@pytest.mark.parametrize("seed", range(8))
def test_a_draw_keeps_every_row_whole_units_and_the_number_of_training_rows(seed: int) -> None:
    train, valid = windows(200, most_rows=7), windows(50, most_rows=7, split="valid")
    drawn, held_out = redraw(train, valid, "sft", seed)
    assert {*drawn, *held_out} == {*train, *valid}
    assert len(drawn) + len(held_out) == len(train) + len(valid)
    assert not {row.unit for row in drawn} & {row.unit for row in held_out}
    assert abs(len(drawn) - len(train)) <= 3  # half of the largest unit


def test_a_draw_depends_on_nothing_but_rows_and_seed() -> None:
    train, valid = windows(80), windows(20, split="valid")
    random.seed(1)
    first = redraw(train, valid, "sft", 5)
    random.seed(2)
    assert redraw(train, valid, "sft", 5) == first
    mixed = [*train, *valid]
    random.Random(3).shuffle(mixed)
    other = redraw(mixed[:80], mixed[80:], "sft", 5)  # another declared split of the same rows
    assert set(other[0]) == set(first[0])


def test_seeds_share_their_training_rows_in_the_proportion_that_chance_gives() -> None:
    train, valid = windows(600), windows(400, split="valid")
    sets = [{row.example for row in redraw(train, valid, "sft", seed)[0]} for seed in range(20)]
    shared = [len(one & other) / 600 for one in sets for other in sets if one is not other]
    assert sum(shared) / len(shared) == pytest.approx(0.6, abs=0.01)
    assert max(shared) < 0.7


@pytest.mark.parametrize("seed", range(8))
def test_an_input_of_two_groups_is_never_in_both_sets(seed: int) -> None:
    """The training side loses the row, as in the declared split; white space does not make another input."""
    train = [Window(f"train:{n}", f"group {n}", f"an  input {n // 3}") for n in range(90)]
    valid = [Window(f"valid:{n}", f"group v{n}", f"an input {n + 100}") for n in range(30)]
    drawn, held_out = redraw(train, valid, "sft", seed)
    assert not {row.prompt.split()[-1] for row in drawn} & {row.prompt.split()[-1] for row in held_out}
    assert len(drawn) + len(held_out) < 120
    assert {row.unit for row in held_out} == {row.unit for row in [*train, *valid]} - _chosen(train, valid, seed)


def _chosen(train: list[Window], valid: list[Window], seed: int) -> set[str]:
    """Units of train if every input is its own."""
    own = [[Window(row.example, row.unit, row.example) for row in rows] for rows in (train, valid)]
    return {row.unit for row in redraw(*own, "sft", seed)[0]}


def test_windows_of_documents_are_told_apart_by_their_whole_text() -> None:
    """Documents often begin alike, such as with a license."""
    train = [Window(f"train:{n}#0", f"d{n}", "a license", f"text {n}") for n in range(40)]
    valid = [Window(f"valid:{n}#0", f"v{n}", "a license", f"text v{n}") for n in range(10)]
    drawn, held_out = redraw(train, valid, "lm", 1)
    assert (len(drawn), len(held_out)) == (40, 10)


def test_a_draw_without_training_rows_is_an_error() -> None:
    train, valid = [Window("train:1", "a", "same")], [Window("valid:1", "b", "same")]
    with pytest.raises(DataError, match=r"data.resample: seed 7 .* 1 of 2 rows"):
        redraw(train, valid, "sft", 7)
