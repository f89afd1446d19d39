"""The conversation in a row, in the form for which chat templates are written: roles, contents, tools and calls.

Accepted are OpenAI's form (`messages` of role and content), ShareGPT's (`conversations` of from and value), `prompt`
and `completion` as lists of turns, as in TRL, and turns whose keys data.columns names. Any other field of a row or turn
is read, refused by name, or known to have no meaning.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunewise.errors import DataError
from tunewise.lab.data.chat.tools import read_calls, read_tools
from tunewise.lab.data.column_names import CONVERSATIONS, roles_line, turns_column
from tunewise.lab.data.rows import Cells, UnreadError, checked_text
from tunewise.spec import CHAT_ROLES
from tunewise.text.suggest import listed, near_miss

ROLES = ("system", "user", "assistant")  # misspelled names of these are reported; templates may know others
FORMS = (("role", "content"), ("from", "value"))
CALL = "call"  # ShareGPT: a turn of the assistant that is only a call of a tool
SHAREGPT_ROLES: Mapping[str, str] = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function", "function_response", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), CALL),
}
NOT_OPENAI = ("human", "gpt", "chatgpt", "bot")  # roles of ShareGPT that no chat template knows
WEIGHTS = ("weight", "train")  # names of OpenAI and Axolotl for whether a turn is trained on
REASONING = ("reasoning_content", "reasoning", "thinking")
# Read by templates that need them; a template that leaves them out does so in use as well.
REFERENCES = ("name", "tool_call_id")
READ = ("role", "content", "tool_calls", "function_call", *REFERENCES, *REASONING, *WEIGHTS)
# Annotations of a turn that do not change its content.
NOTES = (
    *("id", "index", "turn", "turn_id", "turn_identifier", "uuid", "timestamp", "date", "created", "created_at"),
    *("updated_at", "model", "source", "language", "lang", "toxic", "redacted", "country", "state", "header"),
    *("hashed_ip", "openai_id"),
)


@dataclass(frozen=True)
class Conversation:
    """A conversation, and which of its turns are trained on."""

    messages: tuple[dict[str, Any], ...]  # role, content, tool_calls ..., as chat templates read them
    tools: tuple[dict[str, Any], ...] = ()  # tools that the assistant could call
    untrained: frozenset[int] = frozenset()  # turns of the assistant that are only read: weight 0, train false

    def answers(self) -> list[int]:
        """Turns of the assistant that are trained on."""
        turns = [turn for turn, message in enumerate(self.messages) if message["role"] == "assistant"]
        return [turn for turn in turns if turn not in self.untrained]


def read_conversation(cells: Cells, roles: Mapping[str, str]) -> Conversation:
    """Conversation of a row; `roles` are data.roles. Raises DataError, or UnreadError for fields that nothing reads."""
    column = turns_column(cells.row, cells.columns)
    if "messages" not in cells.columns and all(cells.row.get(name) for name in CONVERSATIONS):
        raise DataError(
            f"{cells.place}: two columns contain conversations, messages and conversations. Add under data the "
            "one to use: columns: {messages: conversations}, or remove a column."
        )
    parts = ("prompt", "completion") if column is None else (column,)
    opening, *rest = (_turns(cells, part) for part in parts)
    value = [*opening, *itertools.chain(*rest)]
    num_read = len(opening) if rest else 0  # turns of a prompt, none of which is trained on
    what = f"{cells.place}: '{cells.columns.get(parts[0], parts[0])}'"
    reader = _Reader(what, cells.columns, {theirs: ours for ours, theirs in roles.items()}, value)
    messages = [reader.message(number, turn) for number, turn in enumerate(value, start=1)]
    if any(isinstance(turn, dict) and turn.get("function_call") for turn in value):
        # OpenAI's older form, whose calls became tool_calls, answered by a tool
        messages = [{**message, "role": "tool"} if message["role"] == "function" else message for message in messages]
    _require_order(what, messages)
    system = _system_of(cells, messages)
    untrained = frozenset(
        turn + len(system)
        for turn, (message, given) in enumerate(zip(messages, value, strict=True))
        if message["role"] == "assistant" and (turn < num_read or any(given.get(name) == 0 for name in WEIGHTS))
    )
    return Conversation((*system, *messages), read_tools(cells), untrained)


def _turns(cells: Cells, column: str) -> list[Any]:
    value = cells.value(column, "the task sft")
    if isinstance(value, list) and value:
        return value
    raise DataError(
        f"{cells.place}: '{cells.columns.get(column, column)}' must be a list such as "
        f'[{{"role": "user", "content": "..."}}, ...], but is {value!r:.80}.'
    )


def _system_of(cells: Cells, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A system message from a column of its own, as the first turn."""
    text = cells.row.get("system")
    if text is None or text == "":
        return []
    if messages[0]["role"] == "system":
        raise DataError(
            f"{cells.place}: there is a system message in the column 'system', and another as the first turn. "
            "Keep one of them."
        )
    return [{"role": "system", "content": checked_text(text, f"{cells.place}: 'system'")}]


@dataclass(frozen=True)
class _Reader:
    """Reader of the turns of one conversation."""

    what: str  # place of the conversation, for messages
    columns: Mapping[str, str]  # role and content -> their names in the turns
    roles: Mapping[str, str]  # their name -> ours
    turns: list[Any]  # all turns of the conversation

    def message(self, number: int, turn: Any) -> dict[str, Any]:
        """One turn as chat templates read it. Raises DataError."""
        role_key, content_key = self._keys(turn)
        if not isinstance(turn, dict) or not isinstance(turn.get(role_key), str):
            raise DataError(
                f'{self.what}: turn {number} must be {{"{role_key}": "...", "{content_key}": "..."}}, '
                f"but is {turn!r:.80}.{self._hint(turn)}"
            )
        role = self._role(number, turn[role_key], role_key)
        # Parquet fills in null for keys of other rows, which templates would print
        given = {key: part for key, part in turn.items() if part is not None and key not in (role_key, content_key)}
        where = f"{self.what}: turn {number}"
        _require_weight(where, role, given)
        if (role_key, content_key) in FORMS:
            _require_known(where, role, given)
        else:  # a user who names the keys knows the others; annotations are not read
            given = {key: part for key, part in given.items() if key in READ}
        content = turn.get(content_key)
        if role == CALL:
            return {"role": "assistant", "tool_calls": read_calls(content, where)}
        message = {"role": role, **({} if content is None else {"content": content}), **given}
        for name in WEIGHTS:
            message.pop(name, None)
        for name in REASONING:
            if name in message:
                message[name] = checked_text(message[name], f"{where}: '{name}'")
        calls = [message.pop(name) for name in ("tool_calls", "function_call") if name in message]
        if role == "assistant" and any(calls):
            message["tool_calls"] = [call for group in calls for call in read_calls(group, where)]
        return self._with_content(number, message)

    def _with_content(self, number: int, message: dict[str, Any]) -> dict[str, Any]:
        role = message["role"]
        if "tool_calls" in message and "content" not in message:
            return message  # an assistant that calls a tool need not say anything
        where = f"{self.what}: the content of turn {number}"
        content = checked_text(_joined(message.get("content"), where), where)
        says_nothing = not content.strip() and "tool_calls" not in message
        if role in ("user", "assistant") and says_nothing:
            raise DataError(f"{self.what}: turn {number}, the {role}'s, is empty. Fill it in, or drop the row.")
        return {**message, "content": content}

    def _keys(self, turn: Any) -> tuple[str, str]:
        if "role" in self.columns or "content" in self.columns:
            return self.columns.get("role", "role"), self.columns.get("content", "content")
        is_there = (form for form in FORMS if isinstance(turn, dict) and form[0] in turn)
        return next(is_there, FORMS[0])

    def _hint(self, turn: Any) -> str:
        """Advice how to name the keys of a turn that has two texts under other names."""
        names = [key for key, part in turn.items() if isinstance(part, str)] if isinstance(turn, dict) else []
        if len(names) != 2 or "content" in names:
            return ""
        return f" If these are speaker and text, set data.columns: {{role: {names[0]}, content: {names[1]}}}."

    def _role(self, number: int, theirs: str, role_key: str) -> str:
        is_openai = role_key == "role"
        if theirs in self.roles:
            return self.roles[theirs]
        if not is_openai and theirs in SHAREGPT_ROLES:
            return SHAREGPT_ROLES[theirs]
        near = near_miss(theirs.strip().lower(), ROLES) if (role_key, "content") in FORMS else ""
        if is_openai and (theirs in ROLES or (theirs not in NOT_OPENAI and not near)):
            return theirs
        known = {*self.roles, *([] if is_openai else SHAREGPT_ROLES)}
        speakers = [turn.get(role_key) for turn in self.turns if isinstance(turn, dict)]
        unknown = [name for name in speakers if isinstance(name, str) and name not in known]
        raise DataError(
            f"{self.what}: turn {number} has the role '{theirs[:80]}'.{near} Roles are recognized "
            f"by name. Say whose role it is under data, for example {roles_line(unknown)}. "
            f"Allowed are {', '.join(CHAT_ROLES)}."
        )


def _joined(content: Any, where: str) -> Any:
    """The text of a content that is a list of parts, as OpenAI also writes it; anything else as it is.

    Raises UnreadError for a part that is not text, such as an image.
    """
    if not isinstance(content, list) or not content or not all(isinstance(part, dict) for part in content):
        return content
    for number, part in enumerate(content, start=1):
        kind = part.get("type", "text")
        # Parquet gives every part the keys of all kinds, null where they are another's
        if kind != "text" or any(value is not None and key not in ("type", "text") for key, value in part.items()):
            named = kind if kind != "text" else next(key for key in part if key not in ("type", "text"))
            raise UnreadError(
                str(named)[:80],
                f"{where}: part {number} holds {named!r:.80}, but only text is read, so what it says would be lost. "
                'Keep parts such as {"type": "text", "text": "..."}, or drop the row.',
            )
    return "".join(checked_text(part.get("text"), f"{where}, part {number}") for number, part in enumerate(content, 1))


def _require_order(what: str, messages: list[dict[str, Any]]) -> None:
    """Raise DataError for the result of a tool that no turn before it can have called."""
    ids: list[str] = []
    before = "nothing"
    for number, message in enumerate(messages, start=1):
        ids += [str(call["id"]) for call in message.get("tool_calls", ()) if "id" in call]
        if message["role"] == "tool":
            where = f"{what}: turn {number}, the result of a tool,"
            if before not in ("assistant", "tool"):
                raise DataError(
                    f"{where} follows {before if number == 1 else f'a turn of the {before}'}, but a result follows the "
                    "assistant's turn that calls the tool. Put the call before it, or drop the row."
                )
            if ids and str(answered := message.get("tool_call_id", ids[0])) not in ids:
                raise DataError(
                    f"{where} answers the call {answered!r:.40}, but the calls before it are {listed(ids)}. Correct "
                    "tool_call_id, or drop the row."
                )
        before = message["role"]


def _require_weight(where: str, role: str, given: Mapping[str, Any]) -> None:
    if len({bool(given[name]) for name in WEIGHTS if name in given}) > 1:
        raise DataError(
            f"{where}: 'weight' is {given['weight']!r:.40}, but 'train' is {given['train']!r:.40}. Keep one."
        )
    for name in WEIGHTS:
        weight = given.get(name)
        if weight not in (None, 0, 1):
            raise DataError(f"{where}: '{name}' is {weight!r:.40}, but must be 1 (trained on) or 0 (not trained on).")
        if weight and role not in ("assistant", CALL):
            raise DataError(
                f"{where}: '{name}' is {weight!r}, but only turns of the assistant are trained on, and this "
                f"is the {role}'s turn. Remove '{name}' from it."
            )


def _require_known(where: str, role: str, given: Mapping[str, Any]) -> None:
    misplaced = [name for name in ("tool_calls", "function_call") if given.get(name) and role != "assistant"]
    filled = (name for name, part in given.items() if part not in ("", [], {}))
    unknown = [*misplaced, *(name for name in filled if name not in (*READ, *NOTES))]
    if unknown:
        raise UnreadError(
            unknown[0],
            f"{where}: '{unknown[0]:.80}' in a turn of the {role} is not read, so its content would be lost. "
            f"These fields are read: {', '.join(READ)}. Remove it from the turns, or write it into their content.",
        )
