"""Choice of the chat template for conversations, and errors that explain why there is none."""

import re
from pathlib import Path
from typing import Any

import jinja2

from tunewise.errors import DataError
from tunewise.text.suggest import near_miss

# Errors that a template, a program of others, may raise for a conversation that it was not written for.
TEMPLATE_ERRORS = (
    *(jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
    *(RecursionError, MemoryError),
)
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


def read_template(name: str | None, tokenizer: Any) -> str:
    """Jinja template in the file `name`, or the tokenizer's template of this name; None: the tokenizer's own.

    Raises DataError if there is none, listing those that exist.
    """
    templates = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    names = ", ".join(sorted(templates))
    if name is None:
        try:
            own: str = tokenizer.get_chat_template()
        except ValueError as error:
            if templates:
                raise DataError(
                    f"the tokenizer has several chat templates ({names}), but none is called default. Choose one by "
                    f"its name: data.chat_template: {min(templates)}."
                ) from error
            raise DataError(
                "the data contains conversations, but the tokenizer has no chat template. "
                "Name a Jinja file in data.chat_template, or choose a chat model."
            ) from error
        return own
    path = Path(name)
    if name in templates and not path.is_file():
        return str(templates[name])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        near = near_miss(path.name, [*(file.name for file in path.parent.glob("*")), *templates])
        among = f", or the name of one of the tokenizer's chat templates: {names}" if templates else ""
        raise DataError(f"data.chat_template: cannot read {path}.{near} Give a Jinja file in UTF-8{among}.") from error
