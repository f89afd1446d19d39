"""Look up a name; if it is missing, the error suggests the nearest one."""

import difflib
import itertools
from collections.abc import Iterable, Mapping
from typing import TypeVar

from tunewise.errors import SpecError

Value = TypeVar("Value")
MAX_KNOWN = 2_000  # names that are compared; some tables have 40,000 columns
MAX_COMPARED = 200  # characters of a name


def near_miss(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?', or '' if no name is near."""
    among = [str(k)[:MAX_COMPARED] for k in itertools.islice(known, MAX_KNOWN)]  # comparing is slow
    close = difflib.get_close_matches(str(name)[:MAX_COMPARED], among, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def listed(names: Iterable[object], most: int = 20) -> str:
    """The names separated by commas; of many, the first ones and the number of the others."""
    shown = [str(name)[:MAX_COMPARED] for name in names]
    more = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {more:,} more" if more > 0 else "")


def lookup(table: Mapping[str, Value], name: str, kind: str) -> Value:
    """Entry of `table` under `name`. Raises SpecError with the nearest name and all known ones."""
    if name in table:
        return table[name]
    raise SpecError(f"unknown {kind} '{name}'.{near_miss(name, table)} Known: {', '.join(table)}.")
