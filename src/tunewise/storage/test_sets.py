"""Which studies took verdicts from which test set: one JSON line per look, in the user's data folder.

A line holds two hashes, the name of the study, a date and counts; never a row or a path. Lines are only appended, each
by one system call, so that commands on several folders can write at the same time. A damaged line is skipped.
"""

import datetime
import json
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError

from tunewise.spec import Frozen
from tunewise.spec.study import STUDY_NAME
from tunewise.storage.disk import open_own
from tunewise.storage.own_folder import own_folder

NAME = "test-sets.jsonl"


class Use(Frozen):
    """One look of a study at a test set."""

    test_set: str = Field(pattern=r"^[0-9a-f]{64}$")  # SHA-256 of its texts
    study: str = Field(pattern=r"^[0-9a-f]{16}$")  # desk/study/test_set.py: the same in every folder
    name: str = Field(pattern=STUDY_NAME)
    look: int = Field(ge=1)  # seeds
    verdicts: int = Field(ge=0)  # that were read at this look
    date: datetime.date


class TestSetView(Frozen):
    """Uses of the test set for verdicts, as recorded on this machine."""

    __test__ = False  # of pytest

    sha256: str  # of the texts of its rows, in any order
    other_studies: int  # that took a verdict from it
    other_verdicts: int  # that these studies took, over all looks
    is_recorded: bool  # this study is in the ledger, so that later ones count it


def ledger_path() -> Path:
    """The file, which may not exist. Raises RuntimeError if this user has no home folder."""
    return own_folder("XDG_DATA_HOME") / NAME


def uses_of(test_set: str) -> tuple[Use, ...]:
    """The recorded looks at a test set, oldest first; none if the ledger cannot be read."""
    try:
        path = ledger_path()
        lines = path.read_bytes().splitlines() if path.is_file() else []  # reading a named pipe would wait forever
    except (OSError, RuntimeError):
        return ()
    return tuple(use for line in lines if test_set.encode() in line and (use := _use(line)))


def _use(line: bytes) -> Use | None:
    try:
        return Use.model_validate_json(line)
    except ValidationError:
        return None


def record(uses: Iterable[Use]) -> None:
    """Append those looks that are not recorded yet. Raises OSError or RuntimeError if the ledger cannot be written."""
    for use in uses:
        if any((known.study, known.look) == (use.study, use.look) for known in uses_of(use.test_set)):
            continue
        path = ledger_path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = open_own(path, os.O_WRONLY | os.O_APPEND)
        try:
            # the first line feed ends a line that a full disk or a power failure cut short
            os.write(handle, f"\n{json.dumps(use.model_dump(mode='json'))}\n".encode())
        finally:
            os.close(handle)
