"""Files that a study reads, as they were when it began: no run starts with changed ones.

The id of a run holds the fingerprints taken when the data was prepared. If a file were replaced while the study runs,
later runs would claim one base and have used another.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Self

from tunewise.errors import StudyError
from tunewise.spec import StudySpec
from tunewise.storage.files import file_hash, files_below

# In a model's folder: configuration, weights, tokenizer, templates, code. Others (README.md, logs) are not read.
READ_OF_A_MODEL = (".json", ".safetensors", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".bin")
MOST_HASHED = 64 * 2**20  # bytes: larger files are compared only by size, times and inode

Reader = Literal["runs", "preparation"]


class Seen(NamedTuple):
    """State of one file."""

    reader: Reader
    state: tuple[int, ...]  # size, times of content and of any change, inode
    hash: str | None  # None: a large file

    def is_still(self, path: Path) -> bool:
        """True if the content of the file is unchanged."""
        try:
            state = _state(path)
        except OSError:
            return False
        if state == self.state:
            return True
        if self.hash is not None:  # touched, copied back, or replaced
            return state[0] == self.state[0] and file_hash(path) == self.hash
        return (state[0], state[1], state[3]) == (self.state[0], self.state[1], self.state[3])


class InputFiles:
    """Files that a study reads from the disk, recorded before anything is read. Files from the hub are not included."""

    def __init__(self, seen: dict[Path, Seen]) -> None:
        self.seen = seen

    @classmethod
    def of(cls, study: StudySpec, out: Path) -> Self:
        """Files of a study, without those below its own folder `out`. The preparation reports missing ones."""
        runs = [*_of_model(Path(study.model))]
        for arm in study.existing_arms.values():
            runs += [path for folder in arm.folders for path in _of_model(Path(folder))]
        data = study.data
        sources = (data.train, data.valid, data.test, data.chat_template, study.forgetting.text)
        read = [path for source in sources if source for path in _of_source(Path(source))]
        seen = {path: _seen(path, "preparation") for path in read if out not in path.parents}
        return cls({**seen, **{path: _seen(path, "runs") for path in runs}})

    def require_same(self, reader: Reader | None = None) -> None:
        """Raise StudyError if one of the files, or of those that `reader` reads, has changed."""
        changed = [
            path for path, seen in self.seen.items() if reader in (None, seen.reader) and not seen.is_still(path)
        ]
        if changed:
            more = f" and {len(changed) - 1} more files" if changed[1:] else ""
            raise StudyError(
                f"{changed[0]}{more} changed while the study was running. The study stopped, "
                "because further runs would "
                "not be comparable with the earlier ones. Finished runs are kept. To resume, restore the old file and "
                "run the same command. To repeat all runs with the new file, add --again."
            )


def _of_model(folder: Path) -> Iterator[Path]:
    """Files of a model's or an adapter's folder that are read; none for a bundled model or one from the hub."""
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
    found = os.stat(path)  # noqa: PTH116 - follows a link, so that a new target counts as a new file
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
