"""The chat template of a study: its choice, and conversations as it writes them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from tunewise.errors import DataError, clause
from tunewise.text.suggest import near_miss

# Errors that a template, a program of others, may raise for a conversation that it was not written for.
TEMPLATE_ERRORS = (
    *(jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
    *(RecursionError, MemoryError),
)
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
FOR_TOOLS = "tool_use"  # the name under which tokenizers with several templates keep that for tools
PROBE = "tunewise"  # a content that no template has in its own text

Messages = Sequence[dict[str, Any]]


class ChatTemplate:
    """A chat template and the tokenizer whose special tokens it writes."""

    def __init__(self, name: str | None, tokenizer: Any) -> None:
        """`name` is that of `read_template`, which raises DataError."""
        self.tokenizer = tokenizer
        self.source = read_template(name, tokenizer)
        self.has_marks = GENERATION_MARK.search(self.source) is not None
        self.reads_parts = not self._says(PROBE) and self._says([{"type": "text", "text": PROBE}])

    def _says(self, content: object) -> bool:
        try:
            return PROBE in self._rendered([{"role": "user", "content": content}], (), False)
        except TEMPLATE_ERRORS:
            return False

    def write(self, messages: Messages, tools: Messages, add_generation_prompt: bool = False) -> str:
        """The turns as text. Raises what the template raises, see TEMPLATE_ERRORS."""
        return self._rendered(self._as_read(messages), tools, add_generation_prompt)

    def written(self, messages: Messages, tools: Messages, place: str, add_generation_prompt: bool = False) -> str:
        """The turns as text. Raises DataError, which begins with `place`, if the template rejects them."""
        try:
            return self.write(messages, tools, add_generation_prompt)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(f"the chat template, line {error.lineno}, is not valid Jinja: {error.message}.") from error
        except TEMPLATE_ERRORS as error:
            reason = clause(error)
            begins = f" up to turn {len(messages)}" if add_generation_prompt else ""
            roles = ", ".join(str(message["role"]) for message in messages[:8])
            raise DataError(
                f"{place}: the chat template rejects this conversation{begins}: {reason}. Roles of its turns: "
                f"{roles}{', ...' if len(messages) > 8 else ''}. Drop or change the row, or name a file with another "
                "template in data.chat_template."
            ) from error

    def tokens_and_marks(self, conversations: Sequence[Messages], tools: Messages) -> Any:
        """`input_ids` of each conversation and, in `assistant_masks`, a 1 for each token between generation marks."""
        return self.tokenizer.apply_chat_template(
            [self._as_read(messages) for messages in conversations],
            tools=list(tools) or None,
            chat_template=self.source,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
        )

    def marked_spans(self, messages: Messages, tools: Messages) -> list[tuple[int, int]]:
        """(start, stop) in the text of each passage between generation marks."""
        _, (spans,) = render_jinja_template(
            conversations=[self._as_read(messages)],
            tools=list(tools) or None,
            chat_template=self.source,
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
        )
        return list(spans)

    def advice_on_tools(self) -> str:
        """A sentence that names the tokenizer's own template for tools; '' if it has none, or if that is in use."""
        templates = self.tokenizer.chat_template
        if not isinstance(templates, dict) or templates.get(FOR_TOOLS) in (None, self.source):
            return ""
        return f" The tokenizer has a template for them: data.chat_template: {FOR_TOOLS}."

    def _as_read(self, messages: Messages) -> list[dict[str, Any]]:
        """The messages with each content as the template reads it: a text, or a list of one part."""
        if not self.reads_parts:
            return list(messages)
        return [
            {**message, "content": [{"type": "text", "text": message["content"]}]} if "content" in message else message
            for message in messages
        ]

    def _rendered(self, messages: Messages, tools: Messages, add_generation_prompt: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            chat_template=self.source,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return text


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
