"""Assignment of rows to train, valid and test: whole units only, by hashes, never at random."""

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Protocol, TypeVar

from tunewise.errors import DataError
from tunewise.spec import DataSpec, Split, SplitShares

SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class Named(Protocol):
    """Anything with the id of an example."""

    @property
    def example(self) -> str:
        """Id of the example."""
        ...


Item = TypeVar("Item", bound=Named)


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
