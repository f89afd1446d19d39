"""The train, valid and test files of a data folder: all that are meant, or an error that names them.

Files named train.*, valid.* (validation, val, dev, eval) and test.* are read, with all their shards
(train-00000-of-00002.parquet), as well as folders of these names, the files that a dataset card names, and what the
`datasets` library wrote with `save_to_disk`. Nothing is chosen by alphabetical order, and every file is below the
folder.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tunewise.errors import DataError
from tunewise.inputs.dataset_card import Card, read_card
from tunewise.inputs.named_path import require_below, require_relative
from tunewise.spec import SPLIT_NAMES, Split

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")  # each also with .gz
# Unsupported data. It is named if a folder has nothing else for a split, which would otherwise be missing silently.
OTHER_DATA = re.compile(
    r"\.(zip|tar|tgz|zst|bz2|xz|7z|lz4|gz|xlsx?|ods|feather|orc|avro|pkl|pickle|np[yz]|h5|hdf5|db|sqlite|xml|ndjson|"
    r"jsonlines|ya?ml)"
)
SAVED = "state.json"  # next to the .arrow files of save_to_disk
INNER = ("data", "default")  # folders in which datasets of the hub keep their files
NOT_ROWS = re.compile(
    r"(dataset_infos?|dataset_dict|state|config|package)\.json|(readme|license|requirements|notice)\.txt"
)
SHARD = re.compile(r"(.*?)[-_.]?(\d+)(?:-of-(\d+))?")
MIN_DIGITS = 3  # of the number of a shard without a total; shorter numbers may be versions or folds
MAX_SHARDS = 100_000
SHOWN = 8  # names in a message


@dataclass(frozen=True)
class SplitFiles:
    """Files of a folder by split, in their order."""

    files: dict[Split, tuple[Path, ...]]  # empty: no file names a split
    classes: Mapping[str, list[str]]  # class names by column, from the folder's card


def kind_of(path: Path) -> str:
    """Suffix that determines the format, before a possible .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def split_files(folder: Path) -> SplitFiles:
    """Every split that the folder has. Raises DataError if the files are ambiguous."""
    card = read_card(folder)
    if card.files:
        return SplitFiles(card.files, card.classes)
    return SplitFiles(_below(folder, card), card.classes)


def whole(folder: Path) -> tuple[Path, ...]:
    """Files of a folder that name no split. Raises DataError if the files are ambiguous."""
    return _all_of(folder, folder)


def is_saved(folder: Path) -> bool:
    """True if `save_to_disk` wrote the folder for one dataset without splits."""
    return (folder / SAVED).is_file()


def is_single_file(folder: Path, files: Sequence[Path]) -> bool:
    """True if a split is one plain file of the folder, which can be named directly."""
    return len(files) == 1 and files[0].parent == folder and kind_of(files[0]) != ".arrow"


def _below(folder: Path, card: Card) -> dict[Split, tuple[Path, ...]]:
    for place in (card.folder, *(card.folder / name for name in INNER)):
        if not place.is_dir():
            continue
        names = _visible(require_below(folder, place))
        found: dict[Split, tuple[Path, ...]] = {}
        for split in SPLIT_NAMES:
            if files := _of_split(folder, names, split):
                found[split] = files
        if found:
            return found
    return {}


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}.") from error


def _of_split(root: Path, paths: Iterable[Path], split: Split) -> tuple[Path, ...]:
    """Files of one split among these paths; empty if nothing has its name."""
    word = "|".join(SPLIT_NAMES[split])
    named = [path for path in paths if re.match(rf"({word})($|\.|[-_]?\d)", path.name, re.IGNORECASE)]
    meant = [path for path in named if (path.is_dir() and "." not in path.name) or kind_of(path) in KINDS]
    if not meant:
        others = [path for path in named if OTHER_DATA.fullmatch(path.suffix.lower())]
        if others:
            raise DataError(
                f"{_named(others)}: files of kind '{others[0].suffix}' are not supported. "
                f"Known: {', '.join(KINDS)}, and .gz of each. Convert or unpack it, or move it away."
            )
        return ()
    if len(meant) == 1 and meant[0].is_dir():
        return _all_of(root, require_below(root, meant[0]))
    return _together(root, meant, split)


def _all_of(root: Path, folder: Path) -> tuple[Path, ...]:
    """The one file of a folder, or all its shards."""
    if (folder / SAVED).exists():
        return _saved(root, folder)
    files = [path for path in _visible(folder) if path.is_file() and kind_of(path) in KINDS]
    files = [path for path in files if not NOT_ROWS.fullmatch(path.name.lower())]
    tables = [path for path in files if kind_of(path) != ".txt"]
    if not files:
        names = ", ".join(path.name for path in _visible(folder)[:SHOWN]) or "nothing"
        raise DataError(
            f"{folder}: contains no data file (it contains {names}). Known: {', '.join(KINDS)}, and .gz of each."
        )
    return _together(root, tables or files, None)


def _together(root: Path, paths: Sequence[Path], split: Split | None) -> tuple[Path, ...]:
    """The one file, or the shards in order.

    Raises DataError for missing shards and for files that do not belong together.
    """
    for path in paths:
        require_below(root, path)
    parts = [_shard(path) for path in paths]
    if len(paths) == 1 and (parts[0] is None or parts[0].total in (None, 1)):
        return tuple(paths)
    shards = [part for part in parts if part is not None]
    if len(shards) < len(paths) or len({part.series for part in shards}) > 1:
        _refuse(paths, split)
    total, numbers = shards[0].total, {part.number: part.path for part in shards}
    if total is None and min(part.digits for part in shards) < MIN_DIGITS:
        _refuse(paths, split)
    first = min(numbers, default=0)
    count = total if total is not None else max(numbers) - first + 1
    first = first if total is None or len(numbers) == total else 0
    missing = [number for number in range(first, first + min(count, MAX_SHARDS)) if number not in numbers]
    if missing or first > 1 or len(numbers) != len(paths) or count > MAX_SHARDS:
        shown = ", ".join(map(str, missing[:SHOWN])) or f"those before {first}"
        raise DataError(
            f"{paths[0].parent}: {_named(paths)} are incomplete: of {count:,} shards, these are missing: {shown}. "
            "Add them, or name a file in data.train, data.valid or data.test."
        )
    return tuple(numbers[number] for number in sorted(numbers))


@dataclass(frozen=True)
class Shard:
    """One file of several that form one table."""

    path: Path
    series: tuple[str, str, int | None]  # equal for files that belong together
    number: int
    total: int | None
    digits: int


def _shard(path: Path) -> Shard | None:
    name = path.name.lower()
    stem = name.removesuffix(".gz").removesuffix(kind_of(path))
    match = SHARD.fullmatch(stem)
    if not match or path.is_dir() or len(match[2]) > 9:
        return None
    total = int(match[3]) if match[3] and len(match[3]) <= 9 else None
    return Shard(path, (match[1], name[len(stem) :], total), int(match[2]), total, len(match[2]))


def _refuse(paths: Sequence[Path], split: Split | None) -> NoReturn:
    key = f"data.{split or 'train'}"
    of_train = f"--data {paths[0]} or " if key == "data.train" else ""
    raise DataError(
        f"{paths[0].parent}: {key} is ambiguous, because several files match: {_named(paths)}. "
        f"Name one ({of_train}--set {key}={paths[0]}), or move the others away."
    )


def _named(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(path.name for path in paths[:SHOWN]) + more


def _saved(root: Path, folder: Path) -> tuple[Path, ...]:
    """Files that `save_to_disk` lists. Raises DataError for a list that leads outside the folder."""
    state = require_below(root, folder / SAVED)
    try:
        files = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        names = [item["filename"] for item in files]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{state}: does not list the files of a saved dataset. Save the dataset again.") from error
    paths = [folder / require_relative(folder, name, SAVED) for name in names]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{folder}: {SAVED} names '{path.name}', but there is no such file. Copy the whole folder.")
        require_below(root, path)
        if kind_of(path) not in KINDS:
            raise DataError(f"{folder}: {SAVED} names '{path.name}', which is not an .arrow file.")
    if not paths:
        raise DataError(f"{folder}: contains no rows. Give a source with at least one row.")
    return tuple(paths)
