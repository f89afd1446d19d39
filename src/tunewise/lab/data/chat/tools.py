"""Tools that an assistant may call, and its calls, normalized for the chat template."""

import json
from typing import Any

from tunewise.errors import DataError
from tunewise.lab.data.rows import Cells

EXAMPLE = '[{"type": "function", "function": {"name": "...", "parameters": {...}}}]'


def read_tools(cells: Cells) -> tuple[dict[str, Any], ...]:
    """Tools of a conversation, each {"type": "function", "function": {...}}; given as a list or as JSON.

    The column is `tools` (or what data.columns names), or OpenAI's older `functions`. Raises DataError.
    """
    name = cells.columns.get("tools", "tools")
    if name not in cells.row and "tools" in cells.columns:
        cells.value("tools", "data.columns")  # the error names the existing columns
    name = name if cells.row.get(name) else "functions"
    value = cells.row.get(name)
    what = f"{cells.place}: '{name}'"
    if isinstance(value, str) and value.strip():
        value = _parsed(value, what)
    if not value or isinstance(value, str):
        return ()
    if not isinstance(value, list):
        raise DataError(f"{what} must be a list such as {EXAMPLE}, but is {value!r:.80}.")
    return tuple(_tool(item, what) for item in value)


def _tool(item: Any, what: str) -> dict[str, Any]:
    given = _parsed(item, what) if isinstance(item, str) else item
    if not isinstance(given, dict):
        raise DataError(f"{what} must be a list such as {EXAMPLE}, but holds {item!r:.80}.")
    tool: dict[str, Any] = without_nulls(given)
    is_bare = "function" not in tool and "name" in tool and tool.get("type", "function") == "function"
    if is_bare:
        tool = {"type": "function", "function": {key: part for key, part in tool.items() if key != "type"}}
    if "type" not in tool and isinstance(tool.get("function"), dict):
        tool = {"type": "function", **tool}
    return tool


def read_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Calls of one turn, each {"type": "function", "function": {"name", "arguments"}, perhaps "id"}.

    `value` is a call, a list of calls, or one of these as JSON. Arguments become an object even if they are given as
    JSON, as OpenAI does. Raises DataError.
    """
    if isinstance(value, str):
        value = _parsed(value, f"{where}: the call of a tool")
    calls = value if isinstance(value, list) else [value]
    return [_call(item, where) for item in calls]


def _call(item: Any, where: str) -> dict[str, Any]:
    what = f"{where}: the call of a tool"
    call = _parsed(item, what) if isinstance(item, str) else item
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(
            f'{what} must be {{"type": "function", "function": {{"name": "...", "arguments": {{...}}}}}}, '
            f"but is {item!r:.80}."
        )
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        arguments = _parsed(arguments, f"{what} '{function['name']}': the arguments")
    elif isinstance(arguments, dict):
        arguments = without_nulls(arguments)
    arguments = arguments or {}
    if not isinstance(arguments, dict):
        raise DataError(f"{what} '{function['name']}': the arguments must be an object, but are {arguments!r:.80}.")
    rest = {
        key: part for key, part in call.items() if key not in ("function", "name", "arguments") and part is not None
    }
    return {"type": "function", **rest, "function": {"name": function["name"], "arguments": arguments}}


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{what} must be valid JSON, but got {text!r:.80} ({error}). Write it as JSON, or drop the row."
        ) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def without_nulls(value: Any) -> Any:
    """`value` without keys that hold null, at any depth: tables fill in null for keys of other rows."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def with_text_arguments(messages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """The messages with call arguments as JSON text, for templates that print them unchanged."""

    def call(item: dict[str, Any]) -> dict[str, Any]:
        function = item["function"]
        text = json.dumps(function["arguments"], ensure_ascii=False)
        return {**item, "function": {**function, "arguments": text}}

    return tuple(
        {**message, "tool_calls": [call(item) for item in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    )
