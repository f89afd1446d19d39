"""Settings of the templates of every page."""

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tunewise.text.safe import pictured


def environment(folder: Path) -> jinja2.Environment:
    """The templates of a folder: text is escaped, and its control characters become visible signs."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """A value as shown on the page; control characters such as bidi overrides become visible signs."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else pictured(value)
