"""The rows of one source: a file, a folder or hub id of the `datasets` library, or text that comes with Python.

Every mistake is a DataError that names the source, and the line where there is one.
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.disk import file_hash, files_below
from tunewise.errors import DataError
from tunewise.lab.data.builtin import BUILTINS
from tunewise.lab.data.files import FORMATS, Unit, counted_in, kind_of, read_file, require_file
from tunewise.registry import lookup
from tunewise.spec import SPLIT_NAMES, Split

BUILTIN = "builtin:"
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?::([\w.-]+))?")  # owner/name, or owner/name:configuration


@dataclass(frozen=True)
class Table:
    """The rows of one source in its own order, and where each one stands there."""

    source: str  # as the study names it
    counted: Unit
    rows: list[dict[str, Any]]
    numbers: list[int]  # from 1, one per row, in units of `counted`

    def place(self, index: int) -> str:
        """'train.jsonl, line 17'."""
        return f"{self.source}, {self.counted} {self.numbers[index]}"


def read_source(source: str, split: Split, document_separator: str) -> Table:
    """All rows of `source`, at least one.

    `split` chooses among the splits of a dataset (folder or hub id), `document_separator` cuts a txt file into rows
    {"text": document}. Raises DataError, and SpecError for an unknown builtin source.
    """
    if source.startswith(BUILTIN):
        return _table(source, "row", list(enumerate(_builtin_rows(source), start=1)))
    if _is_dataset(source):
        return _read_dataset(source, split)
    require_file(Path(source))
    return _table(source, counted_in(Path(source)), list(read_file(Path(source), document_separator)))


def first_row(source: str, document_separator: str) -> dict[str, Any]:
    """The first row of a training source. Raises what `read_source` raises."""
    if source.startswith(BUILTIN):
        return next(_builtin_rows(source))
    if _is_dataset(source):
        return _read_dataset(source, "train").rows[0]
    require_file(Path(source))
    return next(read_file(Path(source), document_separator))[1]


def source_fingerprint(source: str) -> str:
    """What tells this source from any other: kind and SHA-256 of the contents, of a hub dataset its id alone.

    So a study keeps the state of a hub dataset that it first loaded. Raises DataError where there is no such file.
    """
    if source.startswith(BUILTIN):
        return f"{source} of Python {sys.version}"
    path = Path(source)
    if path.is_dir():
        files = "\n".join(f"{file.relative_to(path)} {file_hash(file)}" for file in files_below(path))
        return f"folder {hashlib.sha256(files.encode()).hexdigest()}"
    return f"hub {source}" if _is_dataset(source) else file_fingerprint(path)


def file_fingerprint(path: Path) -> str:
    """Kind and SHA-256 of one file. Raises DataError where there is none."""
    require_file(path)
    return f"{kind_of(path)} {file_hash(path)}"


def _table(source: str, counted: Unit, rows: list[tuple[int, dict[str, Any]]]) -> Table:
    if not rows:
        raise DataError(f"{source}: holds no rows. Give a source with at least one.")
    return Table(source, counted, [row for _, row in rows], [number for number, _ in rows])


def _builtin_rows(source: str) -> Iterator[dict[str, Any]]:
    return lookup(BUILTINS, source.removeprefix(BUILTIN), "builtin source")()


# --- datasets ------------------------------------------------------------------------------------


def _is_dataset(source: str) -> bool:
    path = Path(source)
    if path.exists():
        return path.is_dir()
    known = kind_of(path) in (*FORMATS, ".txt")
    return not known and HUB_ID.fullmatch(source) is not None


def _read_dataset(source: str, split: Split) -> Table:
    import datasets  # takes seconds, and most studies read files

    matched = None if Path(source).is_dir() else HUB_ID.fullmatch(source)
    path, configuration = matched.groups() if matched else (source, None)
    try:
        there = datasets.get_dataset_split_names(path, configuration)
        name = next((name for name in SPLIT_NAMES[split] if name in there), None)
        if name is None:
            raise DataError(
                f"{source}: has no split for data.{split} ({' or '.join(SPLIT_NAMES[split])}). It has: "
                f"{', '.join(there)}. Leave data.{split} out to have it split off train."
            )
        dataset = datasets.load_dataset(path, configuration, split=name)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # RuntimeError: the data set is a program, which the library does not run
        reason = str(error).split("\n", maxsplit=1)[0]
        raise DataError(
            f"{source}: is no file, and cannot be loaded as a dataset: {reason}. "
            "Check the name (a folder, owner/name or owner/name:configuration) and the network."
        ) from error
    return _table(source, "row", list(enumerate(_with_label_names(dataset), start=1)))


def _with_label_names(dataset: Any) -> list[dict[str, Any]]:
    """Rows in which the classes that a dataset stores as numbers have their names; None: not labelled (-1)."""
    import datasets

    rows: list[dict[str, Any]] = dataset.to_list()
    classes = {name: kind.names for name, kind in dataset.features.items() if isinstance(kind, datasets.ClassLabel)}
    for row in rows:
        for column, names in classes.items():
            number = row[column]
            row[column] = None if number is None or number < 0 else names[number]
    return rows
