"""Rows of one source: a file, a folder or hub id of the `datasets` library, or text that comes with Python.

Every mistake is a DataError that names the source, and the line if there is one.
"""

import copy
import hashlib
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tunewise.errors import DataError, clause
from tunewise.inputs.data_folder import KINDS, kind_of, split_files, whole
from tunewise.lab.data.rows import Cells
from tunewise.lab.data.sources.builtin import BUILTINS
from tunewise.lab.data.sources.files import Unit, counted_in, read_file, require_file
from tunewise.lab.data.sources.lines import NumberedRows
from tunewise.lab.data.sources.table_rows import BATCH_ROWS, class_names
from tunewise.lab.hub import go_offline_if_unreachable
from tunewise.spec import SPLIT_NAMES, Split
from tunewise.storage.files import file_hash, files_below
from tunewise.text.suggest import lookup

BUILTIN = "builtin:"
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?::([\w.-]+))?")  # owner/name, or owner/name:configuration


@dataclass(frozen=True)
class Table:
    """Rows of one source in its own order, at least one. They are streamed anew for each reading."""

    source: str  # as the study names it
    counted: Unit
    read: Callable[[], NumberedRows]  # each row with its place, in units of `counted`; raises DataError
    parts: tuple["Table", ...] = ()  # files of a folder, in their order

    def first(self) -> dict[str, Any]:
        """The first row. Raises DataError."""
        return next(self.read())[1]

    def cells(self, columns: Mapping[str, str]) -> Iterator[Cells]:
        """Every row as Cells with `columns` (our name -> the file's). Raises DataError."""
        for part in self.parts or (self,):
            for number, row in part.read():
                yield Cells(row, f"{part.source}, {part.counted} {number}", columns)


def read_source(source: str, split: Split, document_separator: str, delimiter: str | None = None) -> Table:
    """Rows of `source`, none of which is read yet.

    `split` chooses among the splits of a dataset (folder or hub id), `document_separator` splits a txt file into rows
    {"text": document}. Raises DataError, and SpecError for an unknown builtin source.
    """
    if source.startswith(BUILTIN):
        rows = lookup(BUILTINS, source.removeprefix(BUILTIN), "builtin source")()
        (kept,) = itertools.tee(enumerate(rows, start=1), 1)  # there are few, and reading the library takes seconds
        return Table(source, "row", partial(copy.copy, kept))
    path = Path(source)
    if path.is_dir():
        return _folder(path, split, document_separator, delimiter)
    if _is_dataset(source):
        return Table(source, "row", partial(_dataset_rows, _load_dataset(source, split)))
    require_file(path)
    return Table(source, counted_in(path), partial(read_file, path, document_separator, delimiter))


def source_fingerprint(source: str) -> str:
    """Identity of a source: kind and SHA-256 of its contents; for a hub dataset only its id.

    So a study keeps the version of a hub dataset that it first loaded. Raises DataError if there is no such file.
    """
    if source.startswith(BUILTIN):
        return f"{source} of Python {sys.version}"
    path = Path(source)
    if path.is_dir():
        files = "\n".join(f"{file.relative_to(path)} {file_hash(file)}" for file in files_below(path))
        return f"folder {hashlib.sha256(files.encode()).hexdigest()}"
    return f"hub {source}" if _is_dataset(source) else file_fingerprint(path)


def file_fingerprint(path: Path) -> str:
    """Kind and SHA-256 of one file. Raises DataError if there is none."""
    require_file(path)
    return f"{kind_of(path)} {file_hash(path)}"


# --- folders -------------------------------------------------------------------------------------


def _folder(folder: Path, split: Split, document_separator: str, delimiter: str | None) -> Table:
    """Rows of one split of a folder, all its shards. Raises DataError."""
    found = split_files(folder)
    if found.files and split not in found.files:
        raise DataError(
            f"{folder}: has no split for data.{split} ({' or '.join(SPLIT_NAMES[split])}). It has: "
            f"{', '.join(found.files)}. Remove data.{split} to have it split off train."
        )
    files = found.files.get(split) or whole(folder)
    parts = tuple(_named_classes(path, document_separator, delimiter, found.classes) for path in files)
    return Table(str(folder), "row", lambda: enumerate((row for part in parts for _, row in part.read()), 1), parts)


def _named_classes(
    path: Path, document_separator: str, delimiter: str | None, by_card: Mapping[str, list[str]]
) -> Table:
    """Rows of a file with class numbers replaced by class names; None: not labeled (-1)."""
    require_file(path)
    classes = {**by_card, **class_names(path)}

    def read() -> NumberedRows:
        for number, row in read_file(path, document_separator, delimiter):
            for column in classes.keys() & row.keys():
                row[column] = _class_name(row[column], classes[column])
            yield number, row

    return Table(str(path), counted_in(path), read)


def _class_name(value: Any, names: list[str]) -> Any:
    if isinstance(value, str) and value.lstrip("-").isdecimal() and value not in names:
        value = int(value)  # CSV holds text
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value < 0:
        return None
    return names[value] if value < len(names) else value


# --- datasets of the hub -------------------------------------------------------------------------


def _is_dataset(source: str) -> bool:
    """True if a source that is not a folder is the id of a dataset."""
    path = Path(source)
    return not path.exists() and kind_of(path) not in KINDS and HUB_ID.fullmatch(source) is not None


def _load_dataset(source: str, split: Split) -> Any:
    import datasets  # takes seconds, and most studies read files

    matched = HUB_ID.fullmatch(source)
    assert matched, "an id was recognized"
    go_offline_if_unreachable()
    path, configuration = matched.groups()
    try:
        there = datasets.get_dataset_split_names(path, configuration)
        name = next((name for name in SPLIT_NAMES[split] if name in there), None)
        if name is None:
            raise DataError(
                f"{source}: has no split for data.{split} ({' or '.join(SPLIT_NAMES[split])}). It has: "
                f"{', '.join(there)}. Remove data.{split} to have it split off train."
            )
        builder = datasets.load_dataset_builder(path, configuration)
        _require_own_files(path, builder.config.data_files)
        dataset = datasets.load_dataset(path, configuration, split=name)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # RuntimeError: the data set is a program, which the library does not run
        reason = str(error).split("\n", maxsplit=1)[0]
        raise DataError(
            f"{source}: is not a file and cannot be loaded as a dataset: {clause(reason)}. "
            "Check the name (a folder, owner/name or owner/name:configuration) and the network."
        ) from error
    if not len(dataset):
        raise DataError(f"{source}: contains no rows. Give a source with at least one row.")
    return dataset


def _require_own_files(name: str, data_files: Any) -> None:
    """Raise DataError if a dataset of the hub names files that are not its own."""
    for files in (data_files or {}).values():
        for file in files:
            if "://" in str(file) and not str(file).startswith(f"hf://datasets/{name}@"):
                raise DataError(
                    f"{name}: its card names '{str(file)[:100]}', which is not a file of this dataset. Only its own "
                    "files are read. If you trust that file, download it yourself and give it in data.train."
                )


def _dataset_rows(dataset: Any) -> NumberedRows:
    """Rows with the class numbers of a dataset replaced by class names; None: not labeled (-1)."""
    import datasets

    classes = {name: kind.names for name, kind in dataset.features.items() if isinstance(kind, datasets.ClassLabel)}
    for start in range(0, len(dataset), BATCH_ROWS):
        batch = dataset.select(range(start, min(start + BATCH_ROWS, len(dataset))))
        for number, row in enumerate(batch.to_list(), start=start + 1):
            for column, names in classes.items():
                label = row[column]
                row[column] = None if label is None or label < 0 else names[label]
            yield number, row
