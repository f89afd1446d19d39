"""One paragraph for each section of the report, for readers who see such a report for the first time."""

import functools
from collections.abc import Mapping
from types import MappingProxyType

import yaml

from tunewise.assets import ASSETS

NONE: Mapping[str, str] = MappingProxyType({})


@functools.cache
def lessons() -> Mapping[str, str]:
    """The paragraphs of assets/lessons.yaml by section, in the order of the page."""
    table: dict[str, str] = yaml.safe_load((ASSETS / "lessons.yaml").read_text(encoding="utf-8"))
    return MappingProxyType(table)
