"""Check that a chat template writes everything in a conversation; omitted parts would be lost silently.

The check is made by rendering: without the part, or with another in its place, the text must change.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jinja2

from tunewise.errors import DataError
from tunewise.lab.data.chat.turns import REASONING, Conversation
from tunewise.lab.data.rows import UnreadError

Write = Callable[[Conversation], str]

# Errors of a template when a part is missing, which show that it uses the part.
LOOKED_AT = (DataError, jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
PARTS = ("tool_calls", *REASONING)


def require_written(said: Conversation, text: str, write: Write, place: str) -> None:
    """Raise UnreadError for the first part of a conversation that is missing in `text`, which `write` made from it."""
    advice = "Use a model whose template does, write a template of your own (data.chat_template), or remove"
    if said.tools and _is_same(replace(said, tools=()), text, write):
        raise UnreadError(
            "tools",
            f"{place}: the chat template does not write the tools of this conversation, so the model would never read "
            f"them. {advice} the tools.",
        )
    for name in PARTS:
        turn = next((turn for turn, message in enumerate(said.messages) if message.get(name)), None)
        if turn is not None and _is_same(_without(said, name), text, write):
            raise UnreadError(
                name,
                f"{place}: the chat template does not write '{name}' (turn {turn + 1}), so the model would never read "
                f"it. {advice} '{name}'.",
            )
    turn = _unwritten_turn(said, text, write)
    if turn is not None:
        role = said.messages[turn]["role"]
        raise UnreadError(
            f"a turn of {role}",
            f"{place}: the chat template does not write what turn {turn + 1} says, of role '{role}', so the model "
            f"would never read it. {advice} the turn.",
        )


def _is_same(other: Conversation, text: str, write: Write) -> bool:
    try:
        return write(other) == text
    except LOOKED_AT:
        return False


def _without(said: Conversation, name: str) -> Conversation:
    messages = ({key: part for key, part in message.items() if key != name} for message in said.messages)
    return replace(said, messages=tuple(messages))


def _unwritten_turn(said: Conversation, text: str, write: Write) -> int | None:
    """First turn whose content can change without changing the text; None if there is none."""
    place = 0
    for turn, message in enumerate(said.messages):
        content = message.get("content", "").strip()
        found = text.find(content, place)
        if found >= 0:
            place = found + len(content)
        elif _is_same(_with_other_content(said, turn), text, write):
            return turn
    return None


def _with_other_content(said: Conversation, turn: int) -> Conversation:
    message = said.messages[turn]
    other = {**message, "content": f"{message['content']} {message['content']}"}
    return replace(said, messages=(*said.messages[:turn], other, *said.messages[turn + 1 :]))


def prints_python(said: Conversation, text: str) -> bool:
    """True if the text shows call arguments as Python literals, which models do not see in use."""
    arguments: list[Any] = [
        call["function"]["arguments"] for message in said.messages for call in message.get("tool_calls", ())
    ]
    return any(given and str(given) in text for given in arguments)
