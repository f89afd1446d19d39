"""Check of file names in a data folder: only files below the folder are read.

A data folder may come from a stranger. Its card, its list of files and its links may lead to files of the same folder
only: not to an address, a parent folder or a file of the user.
"""

import re
from pathlib import Path

from tunewise.errors import DataError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|.*(://|::)")  # http://, hf://, file:, zip://x::y
SHOWN = 100  # characters of a name in a message


def require_relative(folder: Path, name: object, said_by: str) -> str:
    """`name`, if it is text that stays below `folder` when read as a path; wildcards are allowed. Raises DataError.

    `said_by` is the file that contains the name, for the message.
    """
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{folder}: {said_by} names {name!r:.100} as a data file. Write a file name as text.")
    shown = name[:SHOWN]
    if ADDRESS.match(name):
        raise DataError(
            f"{folder}: {said_by} names the address '{shown}'. Only files below the folder are read; nothing is "
            "downloaded. If you trust the file, download it yourself and give that."
        )
    if name.startswith(("/", "~")) or "\\" in name or "\0" in name or ".." in Path(name).parts:
        raise DataError(
            f"{folder}: {said_by} names '{shown}', which is outside the folder. Only files below the folder are "
            "read. Put the file into the folder, or name it in data.train, data.valid or data.test."
        )
    return name


def require_below(folder: Path, path: Path) -> Path:
    """`path`, if it is below `folder` after following all links. Raises DataError."""
    root, target = folder.resolve(), path.resolve()
    inside = target.is_relative_to(root)
    # a snapshot in the hub's cache holds links to files stored next to all snapshots
    of_cache = root.parent.name == "snapshots" and target.is_relative_to(root.parents[1] / "blobs")
    if inside or of_cache:
        return path
    raise DataError(
        f"{path}: is a link to {target}, outside {folder}. Only files below a data folder are read. "
        "Name the file itself in data.train, data.valid or data.test, or put it into the folder."
    )
