"""Look a name up; if it is not there, the error names the near miss."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from tunewise.errors import SpecError

Value = TypeVar("Value")


def near_miss(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?', or the empty string where nothing is near."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def lookup(table: Mapping[str, Value], name: str, kind: str) -> Value:
    """The entry of `table` under `name`. Raises SpecError with the nearest name and all known ones."""
    if name in table:
        return table[name]
    raise SpecError(f"unknown {kind} '{name}'.{near_miss(name, table)} Known: {', '.join(table)}.")
