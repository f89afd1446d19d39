"""Rows of a study's sources: all are read once to identify them, then the sampled ones again, for their text.

No text is kept of a row that is not sampled: only two numbers of 8 bytes, and a third while splits are made.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewise.errors import DataError
from tunewise.lab.data.rows import Cells, Format, Row, UnreadError, input_key
from tunewise.lab.data.sources.sources import BUILTIN, Table
from tunewise.lab.data.splits import SPLITS, drawn, hashed, side, split_notes
from tunewise.spec import DataSpec, Split

Numbers = NDArray[np.uint64]


@dataclass(frozen=True)
class RowIndex:
    """Rows of one split without their text, in the order of their source."""

    source: Split  # split of their source: rows that were split off belong to train
    numbers: Numbers  # of each row in its source, from 1
    keys: Numbers  # Row.key of each

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, chosen: NDArray[np.bool_] | Sequence[int]) -> "RowIndex":
        """The marked rows, or those at these positions."""
        return RowIndex(self.source, self.numbers[chosen], self.keys[chosen])

    def draw(self, limit: int | None) -> "RowIndex":
        """At most `limit` of them, chosen by `splits.draw`."""
        return self if limit is None or len(self) <= limit else self.take(drawn(self.ids(), limit))

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        """Iterate over Row.example, number and key of each."""
        return zip(self.ids(), self.numbers.data, self.keys.data, strict=True)

    def ids(self) -> Iterator[str]:
        """Row.example of each."""
        return (f"{self.source}:{number}" for number in self.numbers.data)


@dataclass(frozen=True)
class Source:
    """One source, its rows as text."""

    split: Split  # split that it is given for
    table: Table
    form: Format
    columns: Mapping[str, str]  # our name -> the file's
    group: str | None  # see `group_column`

    def rows(self) -> Iterator[Row | None]:
        """Every row with its id, unit and key; None for one that is left out.

        Raises DataError at the first unusable row, and after the last one if all were left out.
        """
        number = left_out = 0
        for number, cells in enumerate(self.table.cells(self.columns), start=1):
            try:
                row = self._row(number, cells)
            except UnreadError as error:
                raise DataError(f"{error} {self._how_many(error.field)}") from error
            left_out += row is None
            yield row
        if left_out == number:
            raise DataError(
                f"{self.table.source}: {self.form.nothing} in any of its {left_out:,} rows, so there "
                "is nothing to train on."
            )

    def _how_many(self, field: str) -> str:
        """Number of rows with a field that nothing reads, in a sentence."""

        def has_it(number: int, cells: Cells) -> bool:
            try:
                self._row(number, cells)
            except UnreadError as error:
                return error.field == field
            except DataError:  # another mistake, which is reported once this one is fixed
                return False
            return False

        found = [has_it(*item) for item in enumerate(self.table.cells(self.columns), start=1)]
        return f"This concerns {sum(found):,} of {len(found):,} rows."

    def again(self, wanted: Mapping[int, int]) -> dict[str, Row]:
        """Rows by their ids, read again: those with these numbers, with the keys that they had.

        Raises DataError if they have changed.
        """
        found: dict[str, Row] = {}
        for number, cells in enumerate(self.table.cells(self.columns), start=1):
            if number not in wanted:
                continue
            row = self._row(number, cells)
            if row is None or int(row.key, 16) != wanted[number]:
                break
            found[row.example] = row
            if len(found) == len(wanted):
                return found
        raise DataError(
            f"{self.table.source}: changed while it was read. Run the same command again without changing it."
        )

    def _row(self, number: int, cells: Cells) -> Row | None:
        text = self.form.render(cells)
        if text is None:
            return None
        key = input_key(text.prompt)
        unit = cells.filled(self.group, "data.group") if self.group else key
        return Row(f"{self.split}:{number}", unit, key, text)


@dataclass(frozen=True)
class Indexed:
    """All rows of a study, each in its split, and remarks on those left out and split off."""

    sources: Mapping[Split, Source]
    rows: dict[Split, RowIndex]
    at_hand: dict[str, Row]  # by id: rows of splits without a limit, all of which are used
    notes: tuple[str, ...]

    def fetch(self, chosen: Mapping[Split, RowIndex]) -> dict[Split, list[Row]]:
        """The chosen rows with their text; those not at hand are read again. Raises DataError if they changed."""
        found: dict[str, Row] = {}
        for source in self.sources.values():
            wanted = {
                number: key
                for rows in chosen.values()
                for name, number, key in rows
                if rows.source == source.split and name not in self.at_hand
            }
            if wanted:
                found.update(source.again(wanted))
        return {split: [self.at_hand.get(name) or found[name] for name in rows.ids()] for split, rows in chosen.items()}


def index_rows(sources: Mapping[Split, Source], data: DataSpec) -> Indexed:
    """Rows of all sources, with missing splits taken from train: the units whose hash falls into their share.

    Raises DataError at the first unusable row, if a source has nothing to train on, and if a split would be empty.
    """
    missing = [split for split in SPLITS if split not in sources]
    all_drawn = [split for split in SPLITS if getattr(data.limit, split) is None]
    numbers, keys, units = ({split: array("Q") for split in SPLITS} for _ in range(3))
    at_hand: dict[str, Row] = {}
    notes = []
    for source in sources.values():
        left_out = number = 0
        for number, row in enumerate(source.rows(), start=1):
            if row is None:
                left_out += 1
                continue
            split = source.split
            if split == "train" and missing:
                unit = hashed(row.unit)
                split = side(unit / 2**64, missing, data.split)
                units[split].append(unit)
            numbers[split].append(number)
            keys[split].append(int(row.key, 16))
            if split in all_drawn:
                at_hand[row.example] = row
        if left_out:
            notes.append(f"{left_out:,} of {number:,} rows of {source.split} were left out: {source.form.nothing}.")
    if missing:
        train = sources["train"]
        num_units = {split: _count_distinct(units.pop(split)) for split in ("train", *missing)}
        notes += split_notes(numbers, num_units, data, f"same {train.group}" if train.group else train.form.unit)
    rows = {
        split: RowIndex(split if split in sources else "train", np.asarray(numbers[split]), np.asarray(keys[split]))
        for split in SPLITS
    }
    return Indexed(sources, rows, at_hand, tuple(notes))


def _count_distinct(hashes: "array[int]") -> int:
    """Number of distinct values; they are sorted in place to avoid another array in memory."""
    values = np.asarray(hashes)
    values.sort()
    return int(np.count_nonzero(values[1:] != values[:-1])) + bool(len(values))


def group_column(data: DataSpec) -> str | None:
    """Column whose equal values are not independent, under its name in the file; None: the input is the unit."""
    return data.group or ("module" if data.train == f"{BUILTIN}stdlib" else None)
