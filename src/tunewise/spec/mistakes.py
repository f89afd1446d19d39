"""One line for every mistake in a study: its place, the value given, the values allowed, the nearest key."""

from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any, get_args

from pydantic import BaseModel

from tunewise.spec.methods import METHOD_SPECS
from tunewise.spec.study import StudySpec
from tunewise.text.suggest import near_miss

MAX_LINES = 10  # mistakes shown; a file with more is probably not a study
MAX_NUMBER = 10**9  # whole numbers of a study count steps, rows, tokens or bytes on one machine

WORDS = {
    "dict_type": "must be keys with values, such as {key: value}",
    "model_type": "must be keys with values, such as {key: value}",
    "model_attributes_type": "must be keys with values, such as {key: value}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number that fits 64 bits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text (numbers and dates in quotes)",
    "string_unicode": "must be text without a lone surrogate",
    "tuple_type": "must be a list, such as [1, 2]",
    "list_type": "must be a list, such as [1, 2]",
}
SECOND = " Write secondary: {metric: nll, margin: '0.02'}."
LENGTHS = {
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "string_too_short": "must have at least {min_length} character",
}
# Allowed names in words, because few users read the pattern.
PATTERNS = {
    "name": "must be letters, digits, '.', '_' and '-', at most 64, starting with a letter or a digit",
    "metrics": "must be lowercase letters, digits and '_', at most 32, starting with a letter",
}


def explain_all(errors: Sequence[Any], origin: str) -> str:
    """One line for each of pydantic's errors, at most MAX_LINES of them."""
    # a refused item is missing from its list, which is not another mistake
    told = [item for item in errors if item["type"] != "too_short" or not _is_above(item, errors)]
    lines = _each_list_once([explain(item, origin) for item in told[:MAX_LINES]])
    more = len(told) - len(lines)
    return "\n".join([*lines, *([f"{origin}: and {more:,} more mistakes."] if more else [])])


def _each_list_once(lines: Sequence[str]) -> list[str]:
    """The lines, each list of known names only where it is first given."""
    begin, given, shown = " Known: ", set(), []
    for line in lines:
        start, _, names = line.partition(begin)
        shown.append(start if names and names in given else line)
        given.add(names)
    return shown


def _is_above(item: Any, errors: Sequence[Any]) -> bool:
    place = item["loc"]
    return any(len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in errors)


def _of_other_methods(location: list[str]) -> str:
    """The methods that have this key, if it is one of an arm."""
    in_arm = len(location) == 3 and location[0] == "arms"
    methods = [name for name, spec in METHOD_SPECS.items() if in_arm and location[-1] in spec.model_fields]
    return f" It is a key of method {' and '.join(methods)}." if methods else ""


def explain(item: Any, origin: str) -> str:
    """One line for one pydantic error: place, value given, values allowed."""
    location = [str(part) for part in item["loc"]]
    if len(location) > 2 and location[0] == "arms" and location[2] in METHOD_SPECS:
        del location[2]  # pydantic adds the tag of the union to the path
    dotted = ".".join(location)
    if item["type"] == "extra_forbidden":
        keys = _keys_at(item["loc"])
        allowed = near_miss(location[-1], keys) or (f" Known: {', '.join(keys)}." if keys else "")
        return f"{origin}: unknown key '{dotted}'.{allowed}{_of_other_methods(location)}"
    if item["type"] == "missing":
        return f"{origin}: '{dotted}' is missing.{_hint(dotted)}"
    if item["type"] == "union_tag_invalid":
        given = item["ctx"]["tag"]
        known = f"{near_miss(given, METHOD_SPECS)} Known: {', '.join(METHOD_SPECS)}."
        return f"{origin}: unknown method '{given}' in '{dotted}'.{known}"
    if item["type"] == "union_tag_not_found":
        return f"{origin}: '{dotted}' needs a 'method'. Known: {', '.join(METHOD_SPECS)}."
    if item["type"] == "value_error":  # from our own validators, whose messages contain the given value
        message = item["msg"].removeprefix("Value error, ")
        return f"{origin}: {dotted + ': ' if dotted else ''}{message}"
    if location[-1] == "[key]" or item["type"] == "invalid_key":
        where = ".".join(location[: -2 if location[-1] == "[key]" else -1])
        within = f" of '{where}'" if where else ""
        return f"{origin}: keys must be text, but one{within} is {shown(item['input'])}. Put it in quotes."
    return f"{origin}: '{dotted}': {_words(item, location)}, but got {shown(item['input'])}.{_hint(dotted)}"


def shown(value: object) -> str:
    """The value as Python writes it, in at most about 80 characters, however large or nested it is."""
    brief = Repr()
    brief.maxstring = brief.maxother = brief.maxlong = 80
    brief.maxlist = brief.maxdict = brief.maxtuple = 4
    brief.maxlevel = 2
    text = brief.repr(value)
    return text if len(text) <= 83 else f"{text[:80]}..."


def _words(item: Any, location: Sequence[str]) -> str:
    if item["type"] == "string_pattern_mismatch":
        return PATTERNS.get(location[0], str(item["msg"]))
    if item["type"] in LENGTHS:
        return LENGTHS[item["type"]].format(**item["ctx"])
    return WORDS.get(item["type"], str(item["msg"]).replace("Input should be", "must be", 1))


def _hint(dotted: str) -> str:
    hints = {
        "data": " Write data: {train: rows.jsonl}.",
        "data.train": " Write data: {train: rows.jsonl}.",
        "secondary": SECOND,
        "secondary.margin": SECOND,
        "arms": " Write arms: {full: {method: full}, lora-r8: {method: lora, rank: 8}}.",
    }
    return hints.get(dotted, "")


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    if location[0] == "arms" and len(location) > 3:
        return list(METHOD_SPECS[location[2]].model_fields)
    model: type[BaseModel] = StudySpec
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()  # of a section that may be left out
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is None:
            return []
        model = inner
    return [name for name in model.model_fields if model is not StudySpec or name != "sets"]  # written in `data`


def misread_numbers(given: object, read: object, origin: str, place: str = "") -> list[str]:
    """One line for each true or false given as a number, and for each whole number that is too large to be meant."""
    if isinstance(given, bool):
        is_number = isinstance(read, int | float) and not isinstance(read, bool)
        advice = "YAML also reads yes, no, on and off as true and false."
        return [f"{origin}: '{place}': must be a number, but got {given}. {advice}"] if is_number else []
    if isinstance(given, int) and abs(given) > MAX_NUMBER:
        return [f"{origin}: '{place}': must be at most {MAX_NUMBER:,}, but got {shown(given)}."]
    if isinstance(given, Mapping) and isinstance(read, Mapping):
        pairs = [(str(key), value, read.get(key)) for key, value in given.items()]
    elif isinstance(given, list | tuple) and isinstance(read, list | tuple):
        pairs = [(str(i), *both) for i, both in enumerate(zip(given, read, strict=False))]
    else:
        return []
    inner = (misread_numbers(value, other, origin, f"{place}.{name}".lstrip(".")) for name, value, other in pairs)
    return [line for lines in inner for line in lines]
