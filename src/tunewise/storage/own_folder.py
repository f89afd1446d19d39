"""The folder in which tunewise keeps files of the user that belong to no study."""

import os
import sys
from pathlib import Path
from typing import Literal

BELOW_HOME = {"XDG_DATA_HOME": (".local", "share"), "XDG_STATE_HOME": (".local", "state")}


def own_folder(variable: Literal["XDG_DATA_HOME", "XDG_STATE_HOME"]) -> Path:
    """The folder of the XDG base directory specification, or of macOS; it may not exist.

    Raises RuntimeError if this user has no home folder.
    """
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():  # the specification says to ignore other values
        return named / "tunewise"
    place = ("Library", "Application Support") if sys.platform == "darwin" else BELOW_HOME[variable]
    return Path.home().joinpath(*place, "tunewise")
