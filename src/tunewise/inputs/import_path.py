"""Keep Python from importing files of the current folder, which may hold other people's files of any name.

`import pandas` would run a `pandas.py` found there. This module imports only what Python has loaded already.
"""

import os
import sys
from collections.abc import Mapping

PYTHON = (sys.executable, "-P")  # start of our processes: -P leaves the current folder off their import path


def leave_out_current_folder() -> None:
    """Remove the current folder from the import path of this process and of every Python that it starts.

    `python -m` and an empty entry of PYTHONPATH put it there. If the current folder belongs to Python's own libraries,
    it is also a later entry, which stays.
    """
    given = len(os.environ.get("PYTHONPATH", "").split(os.pathsep)) + (not sys.flags.safe_path)
    sys.path[:given] = [entry for entry in sys.path[:given] if not _is_here(entry)]
    os.environ.update(safe_environment(os.environ))


def safe_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment for a process that must not import from the current folder."""
    entries = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if not _is_here(entry)]
    # an empty PYTHONPATH counts as unset
    return {**environment, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(entries)}


def _is_here(entry: str) -> bool:
    try:
        return not entry or os.path.samefile(entry, os.curdir)  # noqa: PTH121 - pathlib may not be loaded yet
    except OSError:  # the folder, or the current folder, does not exist
        return False
