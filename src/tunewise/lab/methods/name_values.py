"""Options of peft that give single modules their own value: `rank_pattern` and `alpha_pattern`."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.adapter.patterns import NamePattern, deadline, name_ends
from tunewise.errors import SpecError
from tunewise.text.suggest import listed, near_miss

OPTIONS = ("rank_pattern", "alpha_pattern")


def require_effective(options: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise SpecError for a key of such an option that changes nothing in the adapted modules, `names`.

    peft reads a key as the end of a name or as a regular expression, takes the first that matches, and ignores others.
    """
    for option in OPTIONS:
        values, left, end = options.get(option) or {}, list(names), deadline()
        if not isinstance(values, Mapping):
            raise SpecError(f"peft option {option} must map names of modules to numbers, but got {values!r:.80}.")
        for key in map(str, values):
            pattern = NamePattern(name_ends(key), f"peft option {option}", max(map(len, names), default=0))
            found = pattern.matching(names, end)
            if not set(found) & set(left):
                why = "matches no module that earlier keys leave" if found else "matches no adapted module"
                raise SpecError(_no_effect(option, key, names, why))
            left = [name for name in left if name not in found]


def _no_effect(option: str, key: str, names: Sequence[str], why: str) -> str:
    endings = sorted({name.rpartition(".")[2] for name in names})
    return (
        f"peft option {option}: the key '{key}' {why}, so it would have no effect.{near_miss(key, endings)} "
        f"A key is the name of a module or its end ({listed(endings)}), or a regex of one, such as '{names[0]}'. "
        "Correct the key or remove it."
    )
