"""Common names of columns, and the line of a study file that maps them to ours."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import yaml

from tunewise.spec import CHAT_ROLES
from tunewise.text.suggest import listed, near_miss

CONVERSATIONS = ("messages", "conversations")  # the first one present holds the turns
ALPACA = frozenset({"instruction", "output"})

# Our name -> names for the same column in public data sets; messages suggest the line to write.
CALLED: Mapping[str, tuple[str, ...]] = {
    "messages": ("conversation", "dialogue", "dialog", "dialogs", "turns", "chat", "utterances", "chat_messages"),
    "prompt": (
        *("question", "query", "instruction", "input", "inputs", "source", "src", "problem", "mr"),
        *("article", "document", "dialogue", "passage", "context", "user", "goal"),
    ),
    "completion": (
        *("answer", "response", "output", "outputs", "target", "targets", "solution", "summary", "ref", "reference"),
        *("highlights", "reply", "assistant", "tgt", "translation"),
    ),
    "references": ("refs", "answers", "targets", "outputs"),
    "text": (
        *("sentence", "content", "review", "tweet", "comment", "message", "body", "utterance", "document", "question"),
        *("query", "title", "headline", "input", "sms", "post", "description"),
    ),
    "label": (
        *("category", "labels", "class", "intent", "sentiment", "emotion", "topic", "target", "tag", "type", "rating"),
        *("label_text", "label_name", "coarse_label", "fine_label", "language", "stars", "score", "y"),
    ),
}
BEFORE = ("context", "passage", "input", "system_prompt", "system")  # the subject of a prompt, or how to answer
SURE_LABELS = 7  # this many of the label names are almost never anything else
SETS = (("messages",), ("prompt", "completion"), ("text", "label"), ("prompt", "references"))
SPEAKERS_CALLED: Mapping[str, tuple[str, ...]] = {
    "user": ("user", "human", "customer", "client"),
    "assistant": ("assistant", "gpt", "chatgpt", "bot", "agent", "wizard", "model"),
    "system": ("system",),
    "tool": ("tool", "observation", "function"),
}
SPEAKERS = ("role", "from", "speaker", "author", "sender", "name", "actor", "who", "user")
SAYINGS = ("content", "value", "text", "utterance", "message", "body", "transcript")
KNOWN = ("prompt", "completion", "messages", "conversations", "text", "label", "references", "instruction", "output")


def turns_column(row: Mapping[str, Any], columns: Mapping[str, str]) -> str | None:
    """Our name of the column with a row's turns: messages, or ShareGPT's conversations if only that is present.

    None: prompt and completion hold them.
    """
    if "messages" in columns:
        return "messages"
    is_pair = not {*CONVERSATIONS} & {*row} and are_turns(row, columns)
    return None if is_pair else next((name for name in CONVERSATIONS if name in row), "messages")


def are_turns(row: Collection[str], columns: Mapping[str, str]) -> bool:
    """True if prompt and completion of a row are lists of turns."""
    cells = [row.get(columns.get(name, name)) for name in ("prompt", "completion")] if isinstance(row, Mapping) else []
    return bool(cells) and all(isinstance(cell, list) and cell and isinstance(cell[0], dict) for cell in cells)


def columns_line(row: Collection[str], needed: Sequence[Sequence[str]] = SETS) -> str:
    """Lines of a study file that map these columns to ours: 'columns: {prompt: question}'; empty if none is known.

    `needed` are sets of our names; the first set whose members are all present, under our name or another, is used. In
    a row with values, turns whose keys have other names are found as well.
    """
    found = _turns(row) if isinstance(row, Mapping) and ("messages",) in needed else {}
    return _as_yaml(found or next(filter(None, (_mapped(names, row) for names in needed)), {}))


def _mapped(names: Sequence[str], row: Collection[str]) -> dict[str, Any]:
    theirs = {str(column).strip().lower(): str(column) for column in row}
    mapped: dict[str, str] = {}
    for name in names:
        if name in row:
            continue
        free = (other for other in (name, *CALLED[name]) if other in theirs and theirs[other] not in mapped.values())
        other = next(free, None)
        if other is None or (name in ("messages", "references") and not _holds_list(row, theirs[other])):
            return {}
        mapped[name] = theirs[other]
    if not mapped:
        return {}
    before = next((theirs[name] for name in BEFORE if name in theirs and theirs[name] not in mapped.values()), None)
    is_pair = "completion" in names and before is not None
    return {"columns": mapped, **({"template": f"{{{before}}}\n\n{{prompt}}"} if is_pair else {})}


def _holds_list(row: Collection[str], column: str) -> bool:
    return not isinstance(row, Mapping) or isinstance(row[column], list)


def _turns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Columns and roles of a row in which one column is a list of turns."""
    for column, value in row.items():
        turns = value if isinstance(value, list) else []
        if not turns or not all(isinstance(turn, dict) for turn in turns):
            continue
        role = next((name for name in SPEAKERS if isinstance(turns[0].get(name), str)), None)
        content = next((name for name in SAYINGS if isinstance(turns[0].get(name), str)), None)
        if role is None or content is None:
            continue
        columns = {} if column in CONVERSATIONS else {"messages": str(column)}
        if (role, content) in (("role", "content"), ("from", "value")):
            return {"columns": columns} if columns else {}
        speakers = list(dict.fromkeys(str(turn.get(role)) for turn in turns))
        return {"columns": {**columns, "role": role, "content": content}, **_roles(speakers)}
    return {}


def _roles(speakers: Sequence[str]) -> dict[str, Any]:
    if len(speakers) < 2 or set(speakers) <= {*CHAT_ROLES, "human", "gpt"}:
        return {}
    return {"roles": dict(zip(CHAT_ROLES, speakers[:2], strict=False))}


def roles_line(speakers: Sequence[str]) -> str:
    """Line that maps the speakers, as far as it can be guessed: the user speaks first in most data sets."""
    alike = {name: ours for ours, names in SPEAKERS_CALLED.items() for name in names}
    names = dict.fromkeys(name for name in speakers if name not in CHAT_ROLES)
    found = {ours: name for name in names if (ours := alike.get(name.strip().lower())) and name.lower() != "system"}
    others = [name for name in names if name not in found.values()]
    free = [ours for ours in CHAT_ROLES[:2] if ours not in found and ours not in speakers]
    return _as_yaml({"roles": {**found, **dict(zip(free, others, strict=False))} or {"user": "USER"}})


def _as_yaml(keys: Mapping[str, Any]) -> str:
    """Keys of `data` in one-line YAML, joined by ' and '."""
    return " and ".join(f"{key}: {_value_as_yaml(value)}" for key, value in keys.items())


def _value_as_yaml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # YAML reads it the same, and a newline stays escaped
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return str(text).strip()


def advice(row: Collection[str], needed: Sequence[Sequence[str]] = SETS) -> str:
    """A sentence that says what to add to the study; an example if the columns are unknown."""
    line = columns_line(row, needed)
    if line:
        return f"Add under data: {line}."
    return "Map your columns with data.columns, for example columns: {prompt: question, completion: answer}."


def unread_label(row: Collection[str]) -> str | None:
    """Name of a column that holds a class, in rows that are read as plain text; None if there is none."""
    names = (str(column) for column in row)
    return next((n for n in names if n.strip().lower() in CALLED["label"][:SURE_LABELS] or "label" in n.lower()), None)


def label_line(name: str) -> str:
    """Line that makes this column the label."""
    return _as_yaml({"columns": {"label": name}})


def label_advice(row: Mapping[str, Any]) -> str:
    """Columns of a row, and the line that maps them to text and label; for models that only classify."""
    line = columns_line(row, [("text", "label")])
    if not line and "text" in row:
        others = [name for name, cell in row.items() if name != "text" and isinstance(cell, str | int)]
        line = label_line(str(unread_label(others) or others[0])) if others else ""
    there = listed(row)
    return f" Columns found: {there}. Add under data: {line}." if line else f" Columns found: {there}."


def nearest(columns: Collection[str]) -> str:
    """' Did you mean ...?' for the first column that is a misspelling of one of our names."""
    return next(filter(None, _near(columns)), "")


def _near(columns: Collection[str]) -> Iterator[str]:
    for column in columns:
        if column in KNOWN:
            continue
        near = near_miss(str(column), KNOWN)
        yield near if near and _is_alike(str(column), near.split("'")[1]) else ""


def _is_alike(given: str, known: str) -> bool:
    """True for similar beginnings: 'conversation' and 'completion' share letters but mean different things."""
    return given[:2].lower() == known[:2] and abs(len(given) - len(known)) <= max(2, len(known) // 3)
