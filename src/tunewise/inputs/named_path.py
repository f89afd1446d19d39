"""The one gate for files of a data folder: whatever a name in it says, only files below the folder are read.

A data folder may come from a stranger. Its card, its list of files and its links are texts that lead somewhere; they
may lead to files of the same folder and nowhere else: to no address, to no parent folder, to no file of the user's.
"""

import re
from pathlib import Path

from tunewise.errors import DataError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|.*(://|::)")  # http://, hf://, file:, zip://x::y
SHOWN = 100  # characters of a name in a message


def require_relative(folder: Path, name: object, said_by: str) -> str:
    """`name` if it is text that stays below `folder`, read as a path; wildcards are allowed. Raises DataError.

    `said_by` is the file in which it stands, for the message.
    """
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{folder}: {said_by} names {name!r:.100} as a data file. Write the name of a file.")
    shown = name[:SHOWN]
    if ADDRESS.match(name):
        raise DataError(
            f"{folder}: {said_by} names the address '{shown}'. Only files below the folder are read, and nothing is "
            "downloaded for it. Download the file yourself if you trust it, and give that."
        )
    if name.startswith(("/", "~")) or "\\" in name or "\0" in name or ".." in Path(name).parts:
        raise DataError(
            f"{folder}: {said_by} names '{shown}', which is outside of the folder. Only files below the folder are "
            "read. Put the file into the folder, or name it in data.train, data.valid or data.test."
        )
    return name


def require_below(folder: Path, path: Path) -> Path:
    """`path` if it lies below `folder`, all links followed. Raises DataError."""
    root, target = folder.resolve(), path.resolve()
    inside = target.is_relative_to(root)
    # a snapshot of the hub's cache holds links to the files that are stored beside all snapshots
    of_cache = root.parent.name == "snapshots" and target.is_relative_to(root.parents[1] / "blobs")
    if inside or of_cache:
        return path
    raise DataError(
        f"{path}: is a link to {target}, outside of {folder}. Of a data folder only files below it are read. "
        "Name the file itself in data.train, data.valid or data.test, or put it into the folder."
    )
