"""One paragraph for each section of the report, for readers who see such a report for the first time."""

import functools
from collections.abc import Mapping
from types import MappingProxyType

from tunewise.assets import table

NONE: Mapping[str, str] = MappingProxyType({})


@functools.cache
def lessons() -> Mapping[str, str]:
    """The paragraphs of assets/lessons.yaml by section, in the order of the page."""
    return MappingProxyType(table("lessons.yaml"))
