"""Which skills of the learner's track were shown on this machine: one small file in the user's state folder.

It holds numbers of skills and dates, never an answer or a path. Nothing is read or written through a link, or in a
folder of another user.
"""

import datetime
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tunewise.errors import StudyError
from tunewise.storage.disk import write_atomically
from tunewise.storage.files import read_text, reraise_as_study_error
from tunewise.storage.own_folder import own_folder

NAME = "learn.json"
LARGEST = 65_536  # bytes; fifteen dates have 400
Learned = TypeAdapter(dict[int, datetime.date])


def learned_path() -> Path:
    """The file, which may not exist. Raises StudyError if this user has no home folder."""
    try:
        return own_folder("XDG_STATE_HOME") / NAME
    except RuntimeError as error:
        raise StudyError("this user has no home folder. Set XDG_STATE_HOME to a folder of your own.") from error


def learned() -> Mapping[int, datetime.date]:
    """Day on which each skill was shown, by its number; empty if nothing is kept yet.

    Raises StudyError if the file is damaged, or not ours.
    """
    path = learned_path()
    if not _is_ours(path.parent, stat.S_ISDIR) or not _is_ours(path, stat.S_ISREG):
        return {}
    if path.stat().st_size > LARGEST:
        raise StudyError(f"{path} is damaged. `tunewise learn --reset` begins anew.")
    try:
        return Learned.validate_python(json.loads(read_text(path)))
    except (ValueError, ValidationError, RecursionError) as error:
        raise StudyError(f"{path} is damaged. `tunewise learn --reset` begins anew.") from error


def keep(skill: int) -> None:
    """Record that a skill was shown today. Raises StudyError if the file is damaged, not ours, or cannot be written."""
    path, today = learned_path(), datetime.datetime.now(tz=datetime.UTC).date()
    days = {**learned(), skill: today}
    with reraise_as_study_error(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, json.dumps({number: f"{day}" for number, day in sorted(days.items())}))


def forget() -> None:
    """Delete the file, if there is one. Raises StudyError if it is not ours."""
    path = learned_path()
    if _is_ours(path.parent, stat.S_ISDIR) and _is_ours(path, stat.S_ISREG):
        with reraise_as_study_error(path):
            path.unlink()


def _is_ours(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """False if nothing is at `path`. Raises StudyError for a link, another kind of file, or one of another user."""
    with reraise_as_study_error(path, "read"):
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    is_alone = stat.S_ISDIR(found.st_mode) or found.st_nlink == 1
    if not (is_kind(found.st_mode) and is_alone and found.st_uid == os.geteuid()):
        raise StudyError(
            f"progress is not kept in {path}: it is a link, not of the kind that tunewise writes, or another user's. "
            "Remove it, or set XDG_STATE_HOME to a folder of your own."
        )
    return True
