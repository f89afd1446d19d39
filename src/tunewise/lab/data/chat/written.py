"""Check that a chat template writes everything in a conversation; omitted parts would be lost silently.

The check is made by rendering: without the part, or with another in its place, the text must change.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jinja2

from tunewise.errors import DataError
from tunewise.lab.data.chat.turns import REASONING, Conversation
from tunewise.lab.data.rows import UnreadError

Write = Callable[[Conversation], str]

# Errors of a template when a part is missing, which show that it uses the part.
LOOKED_AT = (DataError, jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
PARTS = ("tool_calls", *REASONING)
THINKING = re.compile(
    r"\s*(?:<think>)?(.*)</think>", re.DOTALL
)  # reasoning inside the content, as Qwen and DeepSeek do
THOUGHT = "the text before </think>"
ADVICE = "Use a model whose template does, write a template of your own (data.chat_template), or remove"


def require_written(said: Conversation, text: str, write: Write, place: str, on_tools: str = "") -> bool:
    """Whether `text`, which `write` made from the conversation, lacks reasoning of turns that are only read.

    Raises UnreadError for any other part that it lacks. `on_tools` is advice for tools that it lacks.
    """
    if said.tools and _is_same(replace(said, tools=()), text, write):
        raise UnreadError(
            "tools",
            f"{place}: the chat template does not write the tools of this conversation, so the model would never read "
            f"them.{on_tools} {ADVICE} the tools.",
        )
    drops_reasoning = False
    for part in _parts(said):
        if not _is_same(part.changed, text, write):
            continue
        if part.is_reasoning and part.turn in said.untrained:  # in use, too, it is left out of earlier turns
            drops_reasoning = True
            continue
        raise UnreadError(part.name, f"{place}: {_lost(said, part, write)}")
    turn = _unwritten_turn(said, text, write)
    if turn is not None:
        role = said.messages[turn]["role"]
        raise UnreadError(
            f"a turn of {role}",
            f"{place}: the chat template does not write what turn {turn + 1} says, of role '{role}', so the model "
            f"would never read it. {ADVICE} the turn.",
        )
    return drops_reasoning


class _Part(NamedTuple):
    """A part of one turn."""

    turn: int
    name: str  # its field, or THOUGHT
    changed: Conversation  # the conversation without the part, or with another in its place

    @property
    def is_reasoning(self) -> bool:
        return self.name in (*REASONING, THOUGHT)

    def up_to_its_turn(self, said: Conversation) -> Conversation:
        return replace(said, messages=said.messages[: self.turn + 1])


def _parts(said: Conversation) -> Iterator[_Part]:
    for turn, message in enumerate(said.messages):
        for name in PARTS:
            if part := message.get(name):
                # reasoning may be given under two names, of which a template reads one
                same = {other for other in REASONING if name in REASONING and message.get(other) == part}
                rest = {key: value for key, value in message.items() if key not in {name, *same}}
                yield _Part(turn, name, _with_turn(said, turn, rest))
        content = message.get("content", "")
        thought = THINKING.match(content) if message["role"] == "assistant" else None
        if thought and thought[1].strip():
            other = f"{content[: thought.end(1)]} {thought[1]}{content[thought.end(1) :]}"
            yield _Part(turn, THOUGHT, _with_turn(said, turn, {**message, "content": other}))


def _lost(said: Conversation, part: _Part, write: Write) -> str:
    """What is lost, why, and what to do."""
    what = part.name if part.name == THOUGHT else f"'{part.name}'"
    alone = part.up_to_its_turn(said)
    if part.is_reasoning and not _is_same(part.up_to_its_turn(part.changed), write(alone), write):
        return (
            f"the chat template leaves out {what} (turn {part.turn + 1}) because the conversation goes on, so this "
            "answer would be trained on without it. Write a row for each answer, which ends with it and gives the "
            f"earlier answers weight 0, or remove {what}."
        )
    return (
        f"the chat template does not write {what} (turn {part.turn + 1}), so the model would never read it. "
        f"{ADVICE} {what}."
    )


def _is_same(other: Conversation, text: str, write: Write) -> bool:
    try:
        return write(other) == text
    except LOOKED_AT:
        return False


def _with_turn(said: Conversation, turn: int, message: dict[str, Any]) -> Conversation:
    return replace(said, messages=(*said.messages[:turn], message, *said.messages[turn + 1 :]))


def _unwritten_turn(said: Conversation, text: str, write: Write) -> int | None:
    """First turn whose content can change without changing the text; None if there is none."""
    place = 0
    for turn, message in enumerate(said.messages):
        content = message.get("content", "").strip()
        found = text.find(content, place)
        if found >= 0:
            place = found + len(content)
            continue
        other = {**message, "content": f"x {content} x"}  # both ends, because a template may cut reasoning off
        if _is_same(_with_turn(said, turn, other), text, write):
            return turn
    return None


def prints_python(said: Conversation, text: str) -> bool:
    """True if the text shows call arguments as Python literals, which models do not see in use."""
    arguments: list[Any] = [
        call["function"]["arguments"] for message in said.messages for call in message.get("tool_calls", ())
    ]
    return any(given and str(given) in text for given in arguments)
