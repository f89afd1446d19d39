"""The glossary: every term of the report and the terminal, in two sentences, with the page that says more."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from tunewise.assets import table
from tunewise.errors import SpecError
from tunewise.text.suggest import near_miss


class Term(NamedTuple):
    """One entry of assets/glossary.yaml."""

    name: str
    meaning: str  # two sentences
    page: str  # below docs/, with its anchor
    also: tuple[str, ...] = ()  # other names
    tooltip: tuple[str, ...] = ()  # spellings that the documentation site marks


@functools.cache
def terms() -> Mapping[str, Term]:
    """Every term by name, in the order of the file."""
    found = (
        Term(name, of["meaning"], of["page"], tuple(of.get("also", ())), tuple(of.get("tooltip", ())))
        for name, of in table("glossary.yaml").items()
    )
    return MappingProxyType({term.name: term for term in found})


@functools.cache
def _by_any_name() -> Mapping[str, Term]:
    """Every term by each of its names, in lower case."""
    return MappingProxyType({n.lower(): term for term in terms().values() for n in (term.name, *term.also)})


def explained(name: str) -> Term:
    """The term with this name, ignoring case. Raises SpecError that suggests the nearest."""
    wanted = " ".join(name.split()).lower()
    if term := _by_any_name().get(wanted):
        return term
    known = {n: n for term in terms().values() for n in (term.name, *term.also)}
    raise SpecError(f"unknown term '{name:.80}'.{near_miss(wanted, known)} `tunewise explain` lists all terms.")


def meaning(name: str) -> str | None:
    """The tooltip of a term; None if the glossary does not have it."""
    term = _by_any_name().get(name.lower())
    return None if term is None else term.meaning.replace("*", "").replace("`", "")
