"""No code from the current folder: it holds data, studies and models of others, in which a file may have any name.

`import pandas` would run a `pandas.py` that lies there. This module imports nothing but what Python has loaded by then.
"""

import os
import sys
from collections.abc import Mapping

PYTHON = (sys.executable, "-P")  # how our processes start: -P leaves the current folder off their import path


def leave_out_current_folder() -> None:
    """Take the current folder out of the import path of this process and of every Python that it starts.

    It is there by `python -m`, and by an empty entry of PYTHONPATH. Where it is a place of Python's own libraries, it
    is a later entry, too, which stays.
    """
    given = len(os.environ.get("PYTHONPATH", "").split(os.pathsep)) + (not sys.flags.safe_path)
    sys.path[:given] = [entry for entry in sys.path[:given] if not _is_here(entry)]
    os.environ.update(safe_environment(os.environ))


def safe_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that must not import from the current folder."""
    entries = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if not _is_here(entry)]
    # an empty PYTHONPATH is as none
    return {**environment, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(entries)}


def _is_here(entry: str) -> bool:
    try:
        return not entry or os.path.samefile(entry, os.curdir)  # noqa: PTH121 - pathlib may not be loaded yet
    except OSError:  # there is no such folder, or no current one
        return False
