"""Check of a study folder before use: nothing below it leads outside, and it is a study's folder or new.

Every command checks before it writes (`Ledger.open`, `Ledger.create`), and so does a run before it begins.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tunewise.errors import StudyError
from tunewise.storage.disk import TEMPORARY
from tunewise.storage.files import reraise_as_study_error

KEY = re.compile(r"[0-9a-f]{16}")  # of a run or of prepared data: the name of its folder
UNFINISHED = re.compile(rf"(.+)\.[0-9a-f]{{16}}{re.escape(TEMPORARY)}")
# remains of a command that ended before it made a run or prepared data
BEGUN = {"": {".lock", "runs", "data", "jobs"}, "runs": {"writable"}, "data": {"hashes.json", "log.txt"}}


def require_no_links(folder: Path) -> None:
    """Raise StudyError if anything below `folder` is a link, has another name, or is not a plain file or folder."""
    for path, status in _all_below(folder):
        _require_plain(path, status)


def require_inside(folder: Path) -> None:
    """Raise StudyError if a folder of a study is a link itself, or anything below it leads outside."""
    with reraise_as_study_error(folder, "read"):
        status = folder.lstat()
    _require_plain(folder, status)
    require_no_links(folder)


def _require_plain(path: Path, status: os.stat_result) -> None:
    if why := _leads_out(status):
        raise StudyError(
            f"{path} is {why}. Changing it could change something outside the study folder, so nothing "
            "was changed. Remove it, or use a copy of the study folder without links (`cp -rL`)."
        )


def _leads_out(status: os.stat_result) -> str | None:
    if stat.S_ISLNK(status.st_mode):
        return "a link"
    if stat.S_ISREG(status.st_mode):
        return "a file with another name elsewhere (a hard link)" if status.st_nlink > 1 else None
    return None if stat.S_ISDIR(status.st_mode) else "neither a file nor a folder, but a named pipe, socket or device"


def _all_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every path below, with its status; links are not followed."""
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        with (
            reraise_as_study_error(place, "read"),
            suppress(FileNotFoundError),
        ):  # another command may delete what was listed
            for path in sorted(place.iterdir()):
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(path)
                    yield path, status


def has_results(folder: Path) -> bool:
    """True if `folder` holds a run or prepared data."""
    with reraise_as_study_error(folder, "read"):
        return any(KEY.fullmatch(name) for place in ("runs", "data") for name in _names(folder / place))


def require_free(folder: Path) -> None:
    """Raise StudyError if `folder` holds more than what a study begins with."""
    with reraise_as_study_error(folder, "read"):
        names = _begun(_names(folder))
        inside = {place: _begun(_names(folder / place)) for place in ("runs", "data")}
    is_begun = names <= BEGUN[""] and all(found <= BEGUN[place] for place, found in inside.items())
    if is_begun and (".lock" in names or not inside["data"]):
        return
    shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    raise StudyError(
        f"'{folder}' is not empty and does not hold a study (it contains {shown}). A study would replace files there. "
        "Choose a new folder with --out."
    )


def _begun(names: Iterable[str]) -> set[str]:
    """What temporary files were to be named; unfinished runs and data are left out: a command may have died there."""
    found = {match[1] if (match := UNFINISHED.fullmatch(name)) else name: bool(match) for name in names}
    return {name for name, is_unfinished in found.items() if not (is_unfinished and KEY.fullmatch(name))}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def require_key(path: Path, said: str) -> None:
    """Raise StudyError unless the folder of `path` is named by 16 hex digits, and `path` gives the same digits."""
    name = path.parent.name
    if not KEY.fullmatch(name) or said != name:
        raise StudyError(
            f"{path} belongs to {said!r}, but its folder is named {name!r}. Runs and their data are kept in folders "
            f"named by their 16 hex digits. Move {path.parent} out of the study folder, or delete it."
        )
