"""The files that a study reads, as they were when it began: no run is begun with others.

A run's id holds the fingerprints taken when the data was prepared. A file that is replaced while the study runs would
give runs that say they had one base and had another.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Self

from tunewise.errors import StudyError
from tunewise.spec import ExistingMethod, StudySpec
from tunewise.storage.files import file_hash, files_below

# Of a model's folder: configuration, weights, tokenizer, templates, code. Others (README.md, logs) are not read.
READ_OF_A_MODEL = (".json", ".safetensors", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".bin")
MOST_HASHED = 64 * 2**20  # bytes: larger files are compared by size, time of change and inode alone

Reader = Literal["runs", "preparation"]


class Seen(NamedTuple):
    """One file as it was."""

    reader: Reader
    state: tuple[int, ...]  # size, times of content and of any change, inode
    hash: str | None  # None: a large file

    def is_still(self, path: Path) -> bool:
        """True if the file holds what it held."""
        try:
            state = _state(path)
        except OSError:
            return False
        if state == self.state:
            return True
        if self.hash is not None:  # it was touched, copied back, or replaced
            return state[0] == self.state[0] and file_hash(path) == self.hash
        return (state[0], state[1], state[3]) == (self.state[0], self.state[1], self.state[3])


class InputFiles:
    """What a study reads from the disk, taken before anything is read. What comes from the hub is not in here."""

    def __init__(self, seen: dict[Path, Seen]) -> None:
        self.seen = seen

    @classmethod
    def of(cls, study: StudySpec, out: Path) -> Self:
        """The files of a study, those below its own folder `out` apart. The preparation says what is not there."""
        runs = [*_of_model(Path(study.model))]
        for arm in study.arms.values():
            if isinstance(arm, ExistingMethod):
                runs += _of_model(Path(arm.path))
        data = study.data
        sources = (data.train, data.valid, data.test, data.chat_template, study.forgetting.text)
        read = [path for source in sources if source for path in _of_source(Path(source))]
        seen = {path: _seen(path, "preparation") for path in read if out not in path.parents}
        return cls({**seen, **{path: _seen(path, "runs") for path in runs}})

    def require_same(self, reader: Reader | None = None) -> None:
        """Raises StudyError where one of the files, or of those that `reader` reads, is not what it was."""
        changed = [
            path for path, seen in self.seen.items() if reader in (None, seen.reader) and not seen.is_still(path)
        ]
        if changed:
            more = f" and {len(changed) - 1} more files" if changed[1:] else ""
            raise StudyError(
                f"{changed[0]}{more} changed while the study was running. Nothing more is run, because the runs would "
                "not be comparable with those before. Finished runs are kept. To continue, put the old file back and "
                "give the same command. To make all runs with the new one, give it with --again."
            )


def _of_model(folder: Path) -> Iterator[Path]:
    """The files of a model's or an adapter's folder that are read; none of a bundled model or one from the hub."""
    if folder.is_dir():
        places = (folder, folder / "additional_chat_templates")
        found = (path for place in places if place.is_dir() for path in sorted(place.iterdir()))
        yield from (path for path in found if path.name.endswith(READ_OF_A_MODEL) and path.is_file())


def _of_source(source: Path) -> Iterator[Path]:
    if source.is_dir():
        yield from files_below(source)
    elif source.is_file():
        yield source


def _seen(path: Path, reader: Reader) -> Seen:
    state = _state(path)
    return Seen(reader, state, file_hash(path) if state[0] <= MOST_HASHED else None)


def _state(path: Path) -> tuple[int, ...]:
    found = os.stat(path)  # noqa: PTH116 - follows a link, so that another target is another file
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
