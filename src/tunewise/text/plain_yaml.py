"""YAML read as plain data only: mappings with one value per key, lists, text, numbers, true, false and null.

Tags cannot create Python objects, dates stay text, and aliases cannot make a small file huge. (PyYAML's safe loader
keeps the last of duplicate keys and raises Python errors for malformed numbers.)
"""

import re
from typing import Any

import yaml

MAX_NODES = 100_000  # keys and values, aliases expanded; a study with every option has a few hundred
MAX_CHARACTERS = 1_000_000
PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
PREFIX = "tag:yaml.org,2002:"


class YamlError(ValueError):
    """Text that is not plain YAML; the message says where and why."""


class PlainLoader(yaml.SafeLoader):
    """Loader that builds only plain data."""


PlainLoader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(PREFIX) in PLAIN
}
PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{PREFIX}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: str) -> Any:
    """Data in `text`; None for an empty text. Raises YamlError."""
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"it has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    try:
        loader = PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {}, frozenset())
        return loader.construct_document(node)
    except RecursionError as error:
        raise YamlError("it is nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise YamlError(f"{place}{_said(error)}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"line {line}: the character {error.character:#x} is not allowed") from error
    except (yaml.YAMLError, OverflowError) as error:
        raise YamlError(str(error)) from error
    except YamlError:
        raise
    except ValueError as error:  # a number of more than 4,300 digits, or 0x without digits
        raise YamlError(f"a number cannot be read: {str(error).partition(';')[0]}") from error


def _said(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's message, reworded where it mentions its internals."""
    problem = str(error.problem or error.context)
    if match := re.fullmatch("could not determine a constructor for the tag '(.*)'", problem):
        return f"the tag {match[1].replace(PREFIX, '!!')} is not allowed. Only plain values are"
    return "a second document begins, but only one is allowed" if problem == "but found another document" else problem


def _check(node: yaml.Node, known: dict[int, int], above: frozenset[int]) -> int:
    """Number of nodes from `node` on, aliases expanded.

    Raises YamlError for too many or endlessly nested nodes, and for duplicate keys.
    """
    if id(node) in above:
        raise YamlError(f"line {node.start_mark.line + 1}: a value contains itself through an alias")
    if id(node) not in known:
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            _refuse_repeated_keys(node)
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_check(part, known, above | {id(node)}) for part in parts)
        if known[id(node)] > MAX_NODES:
            raise YamlError(
                f"its expanded aliases make more than {MAX_NODES:,} values. Replace the aliases by their values"
            )
    return known[id(node)]


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise YamlError(f"line {key.start_mark.line + 1}: a key must be one word, not a list or a mapping")
        if (key.tag, key.value) in seen:
            raise YamlError(f"line {key.start_mark.line + 1}: the key '{key.value}' appears twice. Keep one")
        seen.add((key.tag, key.value))
