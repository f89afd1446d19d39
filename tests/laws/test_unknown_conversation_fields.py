"""Law 46: what a conversation says is read, known to mean nothing, or refused by its name; never lost in silence."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from law_tokenizers import Prepared, make_study, tokenizer_of, write_rows

from tunewise.errors import DataError

TOOL = {"type": "function", "function": {"name": "tides", "description": "High water", "parameters": {}}}
CALL = {"id": "1", "type": "function", "function": {"name": "tides", "arguments": '{"town": "Ümit"}'}}
COUNT = 24
WRITES_ALL = (
    "{% if tools %}[{{ tools | tojson }}]{% endif %}{% for m in messages %}<{{ m.role }}>"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.reasoning_content or '' }}{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}({{ c.function.name }} ARGUMENTS){% endfor %}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
AS_OBJECT = WRITES_ALL.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}")
AS_TEXT = WRITES_ALL.replace("ARGUMENTS", "{{ c.function.arguments }}")
JOINED = WRITES_ALL.replace("({{ c.function.name }} ARGUMENTS)", "({{ c.function.name + ' ' + c.function.arguments }})")
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"


def unmarked(template: str) -> str:
    return re.sub(r"\{% (end)?generation %\}", "", template)


def said(*answers: dict[str, Any], row: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Rows of a question before each of these turns of the assistant, the questions different in every row."""
    rows = []
    for number in range(COUNT):
        turns = [
            turn
            for place, answer in enumerate(answers)
            for turn in (
                {"role": "user", "content": f"question {number} {place}"},
                {"role": "assistant", "content": f"answer {place}", **answer},
            )
        ]
        rows.append({"messages": turns, **(row or {})})
    return rows


def prepared(folder: Path, rows: list[dict[str, Any]], template: str = AS_OBJECT, **data: Any) -> Prepared:
    folder.mkdir(exist_ok=True)
    (folder / "t.jinja").write_text(template)
    train = write_rows(folder / "rows.jsonl", rows)
    split = {"valid": 0.2, "test": 0.2}
    return Prepared(
        make_study({"train": train, "chat_template": str(folder / "t.jinja"), "split": split, **data}), folder / "out"
    )


def read_and_trained(found: Prepared) -> list[tuple[str, str]]:
    """Each example as text, and the part of it that is trained on."""
    tokenizer = tokenizer_of("tiny")
    return [
        (
            tokenizer.decode(example.input_ids),
            tokenizer.decode([i for i, mark in zip(example.input_ids, example.supervised, strict=True) if mark]),
        )
        for members in found.examples.values()
        for example in members
    ]


@pytest.mark.parametrize(
    "tools",
    [[TOOL], json.dumps([TOOL]), [json.dumps(TOOL)], [TOOL["function"]], [{**TOOL, "strict": None}]],
    ids=["list", "json", "list of json", "bare", "null in a table"],
)
@pytest.mark.parametrize("column", ["tools", "functions", "mapped"])
def test_law_46_tools_beside_a_conversation_reach_the_template(tools: Any, column: str, tmp_path: Path) -> None:
    """However the tools are written, the model reads them as `apply_chat_template(tools=...)` writes them."""
    columns = {"columns": {"tools": "mapped"}} if column == "mapped" else {}
    rows = said({}, row={column: tools})
    plain = tokenizer_of("tiny").apply_chat_template(
        rows[0]["messages"], tools=[TOOL], chat_template=AS_OBJECT, tokenize=False
    )
    texts = [text for text, _ in read_and_trained(prepared(tmp_path, rows, **columns))]
    assert plain in texts


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": "I look."}], ids=["null", "lacking", "text"])
@pytest.mark.parametrize("template", [AS_OBJECT, AS_TEXT, JOINED, unmarked(AS_OBJECT), unmarked(JOINED)])
def test_law_46_calls_of_tools_are_read_as_openai_writes_them(
    template: str, content: dict[str, Any], tmp_path: Path
) -> None:
    """Arguments are JSON once, and the call is trained on, whatever a template does with them."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"question {number}"},
                {"role": "assistant", **content, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "1", "name": "tides", "content": "12:30"},
                {"role": "assistant", "content": "Half past."},
            ]
        }
        for number in range(COUNT)
    ]
    end = tokenizer_of("tiny").eos_token
    for text, trained in read_and_trained(prepared(tmp_path, rows, template)):
        assert "<tool>12:30<assistant>" in text
        assert trained == f'{content.get("content") or ""}(tides {{"town": "Ümit"}}){end}Half past.{end}'


def sharegpt(number: int) -> dict[str, Any]:
    value = '{"name": "tides", "arguments": {"town": "Ümit"}}'
    turns = [("human", f"question {number}"), ("function_call", value), ("observation", "12:30"), ("gpt", "Half past.")]
    return {"conversations": [{"from": role, "value": text} for role, text in turns], "system": "Be kind."}


def test_law_46_sharegpt_and_named_turns_are_the_conversation_that_openais_form_is(tmp_path: Path) -> None:
    """One conversation in three forms gives the same tokens and masks."""
    functions = {"function_call": "assistant", "observation": "tool", "human": "user", "gpt": "assistant"}
    openai, named = [], []
    for number in range(COUNT):
        turns: list[dict[str, Any]] = [{"role": "system", "content": "Be kind."}]
        for turn in sharegpt(number)["conversations"]:
            is_call = turn["from"] == "function_call"
            turns.append({"role": functions[turn["from"]], **({} if is_call else {"content": turn["value"]})})
            turns[-1] |= {"tool_calls": [CALL]} if is_call else {}
        openai.append({"messages": turns})
        spoken = {"user": "YOU", "assistant": "BOT", "system": "system", "tool": "tool"}
        renamed = [{"text" if k == "content" else k: part for k, part in turn.items() if k != "role"} for turn in turns]
        named.append(
            {"talk": [{"who": spoken[t["role"]], "acts": [1], **r} for t, r in zip(turns, renamed, strict=True)]}
        )
    names = {"columns": {"messages": "talk", "role": "who", "content": "text"}, "roles": {"user": "YOU"}}
    names["roles"]["assistant"] = "BOT"
    forms = {"openai": (openai, {}), "named": (named, names), "sharegpt": ([*map(sharegpt, range(COUNT))], {})}
    found = {}
    for form, (rows, settings) in forms.items():
        (tmp_path / form).mkdir()
        found[form] = prepared(tmp_path / form, rows, **settings).examples
    assert found["openai"] == found["named"] == found["sharegpt"]


@pytest.mark.parametrize("word", [{"weight": 0}, {"train": False}, {"weight": 0.0}])
@pytest.mark.parametrize("template", [AS_OBJECT, unmarked(AS_OBJECT)])
def test_law_46_a_turn_of_weight_0_is_read_and_not_trained_on(
    template: str, word: dict[str, Any], tmp_path: Path
) -> None:
    """The tokens are those without the weight, and of the masks exactly the turn is gone."""
    end = tokenizer_of("tiny").eos_token
    for answers in ([word, {"weight": 1}, {}], [{}, word, {}], [{}, {}, word]):
        expected = "".join(f"answer {place}{end}" for place, answer in enumerate(answers) if answer != word)
        for text, trained in read_and_trained(prepared(tmp_path, said(*answers), template)):
            assert trained == expected
            assert all(f"answer {place}{end}" in text for place in range(3)), "the model reads the turn"


def test_law_46_turns_of_a_prompt_are_read_and_those_of_the_completion_trained_on(tmp_path: Path) -> None:
    """`prompt` and `completion` as lists of turns are the conversation in which earlier answers have weight 0."""
    (tmp_path / "whole").mkdir()
    whole = said({"weight": 0}, {})
    parts = [{"prompt": row["messages"][:3], "completion": row["messages"][3:]} for row in whole]
    assert prepared(tmp_path, parts).examples == prepared(tmp_path / "whole", whole).examples


REFUSED: list[tuple[str, list[dict[str, Any]], str, str]] = [
    ("tools that the template leaves out", said({}, row={"tools": [TOOL]}), NO_SYSTEM, "tools of this conversation"),
    ("calls that the template leaves out", said({"tool_calls": [CALL]}), NO_SYSTEM, "'tool_calls' .turn 2."),
    ("reasoning that it leaves out", said({"thinking": "hm"}), NO_SYSTEM, "'thinking' .turn 2."),
    ("a turn that it leaves out", said({}, row={"system": "Be kind."}), NO_SYSTEM, "turn 1 says, of role 'system'"),
    ("a key of a turn", said({"prefix": True}), AS_OBJECT, "'prefix' in a turn of the assistant"),
    ("half a weight", said({"weight": 0.5}), AS_OBJECT, "'weight' is 0.5.*must be 1"),
    ("nothing but weight 0", said({"weight": 0}), AS_OBJECT, "every answer of the assistant has weight 0"),
    ("pictures", said({}, row={"images": ["a.png"]}), AS_OBJECT, "column 'images'"),
    ("a weight of the row", said({}, row={"weight": 0.5}), AS_OBJECT, "column 'weight' is 0.5"),
    ("settings of the template", said({}, row={"chat_template_kwargs": {"a": 1}}), AS_OBJECT, "chat_template_kwargs"),
    ("arguments that are no JSON", said({"tool_calls": [{"name": "f", "arguments": "x="}]}), AS_OBJECT, "valid JSON"),
    ("two conversations", said({}, row={"conversations": [1]}), AS_OBJECT, "two columns"),
    ("tools that are no list", said({}, row={"tools": {"a": 1}}), AS_OBJECT, "'tools' must be a list"),
]


@pytest.mark.parametrize(("rows", "template", "message"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_law_46_what_nobody_would_read_is_refused_by_its_name(
    rows: list[dict[str, Any]], template: str, message: str, tmp_path: Path
) -> None:
    """One message that names the line and the field."""
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 1.*{message}"):
        prepared(tmp_path, rows, template)


def test_law_46_the_rows_with_what_nobody_reads_are_counted(tmp_path: Path) -> None:
    """The message names the first such row, and says how many there are."""
    rows = [*said({})[:21], *said({"prefix": True})[21:]]
    with pytest.raises(DataError, match=r"line 22: .*'prefix'.*This concerns 3 of 24 rows\."):
        prepared(tmp_path, rows)


@pytest.mark.parametrize("key", ["id", "timestamp", "name"])
def test_law_46_notes_of_turns_and_rows_change_nothing(key: str, tmp_path: Path) -> None:
    """Who said it and when is no part of what was said."""
    (tmp_path / "plain").mkdir()
    plain = prepared(tmp_path / "plain", said({}, {}))
    noted = prepared(tmp_path, said({key: "x"}, {key: "y"}, row={"id": 1, "source": "here", "split": None}))
    assert noted.examples == plain.examples


def test_law_46_a_content_of_text_parts_is_their_text(tmp_path: Path) -> None:
    """OpenAI's other form of a content, also as Parquet fills it; a part that is not text is refused."""
    parts = [{"type": "text", "text": "ans"}, {"type": "text", "text": "wer 0", "image_url": None}]
    folders = [tmp_path / name for name in ("plain", "parts", "image")]
    for folder in folders:
        folder.mkdir()
    plain, same = (prepared(folder, said(row)) for folder, row in zip(folders, ({}, {"content": parts}), strict=False))
    assert read_and_trained(same) == read_and_trained(plain)
    image = [{"type": "image_url", "image_url": {"url": "x.png"}}]
    with pytest.raises(DataError, match="part 1 holds 'image_url', but only text is read"):
        prepared(folders[2], said({"content": image}))


BLANK_BEFORE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}Assistant: {{ m.content }}{{ eos_token }}"
    "{% else %}User: {{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
)


def test_law_09_a_prompt_that_ends_with_a_blank_is_read_in_training_as_in_use(tmp_path: Path) -> None:
    """Where a token would lie across prompt and answer, they become tokens separately, and the rows are counted."""
    tokenizer = tokenizer_of("tiny")
    found = prepared(tmp_path, said({}), BLANK_BEFORE)
    for example in (example for members in found.examples.values() for example in members):
        start = example.supervised.index(True)
        prompt = tokenizer.decode(example.input_ids[:start])
        assert prompt.endswith("Assistant: ")
        assert example.input_ids[:start] == tokenizer(prompt)["input_ids"], "the tokens that the model reads in use"
        assert tokenizer.decode(example.input_ids[start:]) == f"answer 0{tokenizer.eos_token}"
    count, _ = found.law("boundary")
    assert count == len(found.examples["train"])
