"""Which rows are trained on, which steer, which are scored: whole units only, by hashes, never by chance."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tunewise.errors import DataError
from tunewise.lab.data.rows import Row
from tunewise.spec import DataSpec, Split, SplitShares

SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class Named(Protocol):
    """Anything with the id of an example."""

    @property
    def example(self) -> str:
        """The id."""
        ...


Item = TypeVar("Item", bound=Named)


def position(name: str) -> float:
    """A place in [0, 1) that depends on `name` alone: the first 8 bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


@dataclass(frozen=True)
class Divided:
    """All three splits, and what the report says of those that were made here."""

    rows: dict[Split, list[Row]]
    notes: tuple[str, ...]


def split_off(given: Mapping[Split, list[Row]], data: DataSpec, unit_name: str) -> Divided:
    """The given splits, and the missing ones split off train: the units whose hash falls into their share.

    So a unit is never on two sides, and stays on its side when rows are added. `unit_name` is what a unit is in this
    data, for the notes. Raises DataError where a split would be empty.
    """
    missing = [split for split in SPLITS if split not in given]
    rows: dict[Split, list[Row]] = {split: [] for split in missing}
    rows["train"] = []
    for row in given["train"]:
        rows[_side(row.unit, missing, data.split)].append(row)
    rows.update({split: members for split, members in given.items() if split != "train"})
    num_units = len({row.unit for row in given["train"]})
    for split in ("train", *missing):
        if not rows[split]:
            raise DataError(
                f"{data.train}: its {num_units:,} units ({unit_name}) are too few to split off "
                f"{' and '.join(missing)}: {split} would be empty. {_advice(data, missing)}"
            )
    notes = [
        f"{split} was split off train by a hash of the unit ({unit_name}): {len(rows[split]):,} of "
        f"{len(given['train']):,} rows, {len({row.unit for row in rows[split]}):,} of {num_units:,} units."
        for split in missing
    ]
    return Divided({split: rows[split] for split in SPLITS}, tuple(notes))


def _side(unit: str, missing: Sequence[Split], shares: SplitShares) -> Split:
    # from both ends, so that a valid split is the same whether or not a test file is given
    place = position(unit)
    if "valid" in missing and place < shares.valid:
        return "valid"
    if "test" in missing and place >= 1 - shares.test:
        return "test"
    return "train"


def _advice(data: DataSpec, missing: Sequence[Split]) -> str:
    files = " and ".join(f"data.{split}" for split in missing)
    if ".txt" in data.train:
        return (
            f"Set data.document_separator to what stands between documents (now {data.document_separator!r}), "
            f"or give {files}."
        )
    return f"Give {files}, give more rows, or raise the shares in data.split."


def draw(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` of the items, those with the smallest hashes of their ids, in their order; None: all.

    So they come evenly from the whole source, a smaller draw is part of a larger one, and no seed is needed.
    """
    if limit is None or len(items) <= limit:
        return list(items)
    chosen = {item.example for item in sorted(items, key=lambda item: (position(item.example), item.example))[:limit]}
    return [item for item in items if item.example in chosen]
