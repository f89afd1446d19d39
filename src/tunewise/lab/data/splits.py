"""Assignment of rows to train, valid and test: whole units only, by hashes, never at random."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import accumulate
from typing import Protocol, TypeVar

from tunewise.errors import DataError
from tunewise.lab.data.rows import input_key
from tunewise.spec import DataSpec, Split, SplitShares, Task

SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class Named(Protocol):
    """Anything with the id of an example."""

    @property
    def example(self) -> str:
        """Id of the example."""
        ...


class Example(Named, Protocol):
    """The texts of an example and its unit."""

    @property
    def unit(self) -> str:
        """Group of related rows, which no draw divides."""
        ...

    @property
    def prompt(self) -> str:
        """Input as rendered (lm: the start of the window)."""
        ...

    @property
    def reference(self) -> str:
        """Text to predict after it."""
        ...


Item = TypeVar("Item", bound=Named)
Prepared = TypeVar("Prepared", bound=Example)


def hashed(name: str) -> int:
    """The first 8 bytes of the SHA-256 of `name`, as a number."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])


def position(name: str) -> float:
    """A place in [0, 1) that depends only on `name`."""
    return hashed(name) / 2**64


def side(place: float, missing: Sequence[Split], shares: SplitShares) -> Split:
    """Split of a unit whose `position` is `place`; `missing` are the splits that are made from train.

    So a unit is never in two splits, and stays in its split when rows are added.
    """
    # from both ends, so that a validation split is the same with and without a test file
    if "valid" in missing and place < shares.valid:
        return "valid"
    if "test" in missing and place >= 1 - shares.test:
        return "test"
    return "train"


def split_notes(
    rows: Mapping[Split, Sized], num_units: Mapping[Split, int], data: DataSpec, unit_name: str
) -> list[str]:
    """Remarks on the splits that were made from train; `num_units` counts the units of train and of these.

    `unit_name` is what a unit is in this data. Raises DataError if one of them, or the rest of train, is empty.
    """
    missing = [split for split in num_units if split != "train"]
    all_rows, all_units = sum(len(rows[split]) for split in num_units), sum(num_units.values())
    for split in num_units:
        if not rows[split]:
            raise DataError(
                f"{data.train}: its {all_units:,} units ({unit_name}) are too few to make "
                f"{' and '.join(missing)}: {split} would be empty. {_advice(data, missing)}"
            )
    return [
        f"{split} was split off train by a hash of the unit ({unit_name}): {len(rows[split]):,} of "
        f"{all_rows:,} rows, {num_units[split]:,} of {all_units:,} units."
        for split in missing
    ]


def _advice(data: DataSpec, missing: Sequence[Split]) -> str:
    files = " and ".join(f"data.{split}" for split in missing)
    if ".txt" in data.train:
        return (
            f"Set data.document_separator to the text between documents (now {data.document_separator!r}), "
            f"or give {files}."
        )
    return f"Give {files}, give more rows, or raise the shares in data.split."


def draw(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` of the items, those with the smallest hashes of their ids, in their order; None: all.

    So they come evenly from the whole source, a smaller sample is part of a larger one, and no seed is needed.
    """
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[place] for place in drawn((item.example for item in items), limit)]


def drawn(names: Iterable[str], limit: int) -> list[int]:
    """Places of the `limit` names with the smallest hashes, in their order; no more are held at once."""
    places = ((position(name), name, place) for place, name in enumerate(names))
    return sorted(place for _, _, place in heapq.nsmallest(limit, places))


def redraw(
    train: Sequence[Prepared], valid: Sequence[Prepared], task: Task, seed: int
) -> tuple[list[Prepared], list[Prepared]]:
    """Another training and another validation set from the rows of both, drawn by a hash of unit and seed.

    Units stay whole, so train gets its number of rows to within the size of a unit. Then train loses rows whose input
    valid contains, which happens only if units are groups of inputs. Raises DataError if train would be empty.
    """
    pool = [*train, *valid]
    num_rows = Counter(row.unit for row in pool)
    order = sorted(num_rows, key=lambda unit: (hashed(f"{seed} {unit}"), unit))
    totals = list(accumulate(num_rows[unit] for unit in order[:-1]))  # the last unit is for valid
    place = min(range(len(totals)), key=lambda place: abs(totals[place] - len(train)))
    chosen = set(order[: place + 1])
    held_out = [row for row in pool if row.unit not in chosen]
    inputs = {_input(row, task) for row in held_out}
    drawn_rows = [row for row in pool if row.unit in chosen and _input(row, task) not in inputs]
    if not drawn_rows:
        raise DataError(
            f"data.resample: seed {seed} draws a training set whose every input is also in its validation set, which "
            f"has {len(held_out):,} of {len(pool):,} rows. Remove data.resample, or give more different rows."
        )
    return drawn_rows, held_out


def _input(row: Example, task: Task) -> str:
    """Key of what a row's unit would be without `data.group`, of a window for `lm`; ignores white space."""
    return input_key(row.prompt + row.reference if task == "lm" else row.prompt)
