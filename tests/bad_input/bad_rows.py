"""Rows that cannot be trained on: values, labels, conversations, splits, settings that do not fit the data."""

from typing import Any

from bad_input_case import LABELS, PAIRS, Case, data, lines, rows, taken


def pair(prompt: Any = "p", completion: Any = "c") -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion}


def label(value: Any, text: Any = "a") -> dict[str, Any]:
    return {"text": text, "label": value}


VALUES = [
    rows(
        "no known column", [{"question": "q", "completions": "c"}], "question, completions", "Did you mean 'completion'"
    ),
    rows("a row without any column", [{}], "(none)", "data.columns"),
    rows("the columns of two tasks", [{"text": "a", "completion": "b"}], "sft and lm", "task: sft"),
    rows("a misspelled column", [{"promt": "p", "completion": "c"}], "line 1", "'prompt'", "'promt'", "columns"),
    rows("a row that lacks a column", [pair(), {"prompt": "p"}], "t.jsonl, line 2", "'completion'", "prompt"),
    rows("null", [pair(), pair(completion=None)], "line 2", "'completion'", "null", "drop the row"),
    rows("NaN", ['{"prompt": "p", "completion": NaN}'], "line 1", "'completion'", "null"),
    rows("a number of 401 digits", [f'{{"prompt": "p", "completion": 1{"0" * 400}}}'], "too few"),
    rows("an infinite number", ['{"prompt": "p", "completion": 1e999}'], "line 1", "'completion'", "text", "inf"),
    rows("a blank completion", [pair(completion=" \n")], "line 1", "'completion'", "empty", "drop the row"),
    rows("a blank prompt", [pair("")], "line 1", "prompt", "empty"),
    rows("a list as a prompt", [pair(["p"])], "line 1", "'prompt'", "list"),
    rows("an object as a completion", [pair(completion={"a": 1})], "line 1", "'completion'", "text", "dict"),
    rows("true as a completion", [pair(completion=True)], "line 1", "'completion'", "text", "bool"),
    taken(rows("numbers as completions", [pair(f"{i}+1", i + 1) for i in range(60)], "sft", "'3<")),
    taken(rows("numbers as text", [pair(f"{i}+1", str(i + 1)) for i in range(60)], "sft", "'3<")),
    taken(rows("columns that are not read", [{**row, "x": {"y": [None]}} for row in PAIRS], "sft")),
    rows("lone surrogate in a label", [label("a"), '{"text": "a", "label": "\\udfff"}'], "line 2", "lone surrogate"),
    rows("escapes of a terminal as a column", [{"\x1b[31mtext": "a"}], r"\x1b[31mtext", "data.columns"),
    rows("a mark-up tag as a column", [{"[/red]<script>": "a"}], "[/red]<script>", "data.columns"),
    rows(
        "columns under other names",
        [{"question": "q", "answer": "a"}],
        "columns: {prompt: question, completion: answer}",
    ),
    rows(
        "a label under another name", [{"sentence": "s", "category": "c"}], "columns: {text: sentence, label: category}"
    ),
    rows("columns in capitals", [{"Text": "s", "Label": "c"}], "columns: {text: Text, label: Label}"),
    taken(
        rows(
            "plain text beside a category",
            [{"text": f"document {i}", "category": "ab"[i % 2]} for i in range(60)],
            "lm",
        )
    ),
    rows(
        "completions with a verdict (KTO)",
        [{**pair(), "label": i % 2 == 0} for i in range(4)],
        "line 1",
        "'label'",
        "4 of 4",
    ),
    rows("tools beside a pair", [{**pair(), "tools": [{"name": "f"}]}], "line 1", "'tools'", "remove the column"),
    rows("several completions", [pair(completion=["a", "b"])], "line 1", "'completion'", "list"),
    taken(
        rows(
            "several references",
            [{"prompt": f"p {i}", "references": [f"r {i}", "other"]} for i in range(60)],
            "sft",
            "'p",
        )
    ),
    rows(
        "references that are a text", [{"prompt": "p", "references": "r"}], "line 1", "'references'", "a list of texts"
    ),
    rows("no references", [{"prompt": "p", "references": []}], "line 1", "'references'", "a list of texts", "[]"),
    rows("a blank reference", [{"prompt": "p", "references": ["a", " "]}], "line 1", "'references', text 2", "empty"),
    rows("a reference that is a number", [{"prompt": "p", "references": [1]}], "'references', text 1", "int"),
    taken(
        rows(
            "Alpaca's columns",
            [{"instruction": f"do {i}", "input": "this" * (i % 2), "output": "done"} for i in range(60)],
            "sft",
            "'do",
        )
    ),
    rows(
        "Alpaca's columns with a history",
        [{"instruction": "a", "output": "b", "history": [["c", "d"]]}],
        "line 1",
        "'history'",
        "data.template",
    ),
    rows(
        "Alpaca's output left blank", [{"instruction": "a", "input": "", "output": " "}], "line 1", "'output'", "empty"
    ),
    rows("only blank documents", [{"text": ""}, {"text": "\n"}], "no text in any of its 2 rows"),
    taken(
        rows("some blank documents", [{"text": ""}, *({"text": f"document {i}"} for i in range(60))], "1 of 61 rows")
    ),
]

LABELLED = [
    rows("a blank text", [label("a", " ")], "line 1", "'text'", "empty"),
    rows("no label", [label(None)], "line 1", "label", "None", "drop rows without a label"),
    rows("a fraction as a label", [label(1.0)], "line 1", "label", "1.0", "Write 1"),
    rows("NaN as a label", ['{"text": "a", "label": NaN}'], "line 1", "label", "nan"),
    rows("a list as a label", [label(["a", "b"])], "line 1", "label", "a text or a whole number", "['a', 'b']"),
    rows("a blank label", [label(" ")], "line 1", "label", "' '"),
    rows("a single class", [{**row, "label": "a"} for row in LABELS], "single class, 'a'", "data.columns"),
    rows(
        "a class for every row",
        [label(str(i), f"t {i}") for i in range(60)],
        "does not occur in train",
        "Classes in train",
    ),
    taken(
        rows(
            "labels of 5,000 digits", [{**row, "label": "12"[i % 2] * 5000} for i, row in enumerate(LABELS)], "classify"
        )
    ),
    taken(rows("whole numbers as labels", [{**row, "label": i % 2} for i, row in enumerate(LABELS)], "classify")),
    taken(
        rows("huge numbers as labels", [{**row, "label": 10**30 + i % 2} for i, row in enumerate(LABELS)], "classify")
    ),
    taken(
        rows(
            "true and false as labels",
            [{**row, "label": i % 2 == 0} for i, row in enumerate(LABELS)],
            "classify",
            "true",
        )
    ),
    taken(rows("blanks around labels", [{**row, "label": f" {row['label']}\n"} for row in LABELS], "classify", "'a'")),
]


def turns(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


TALK = [turns(("user", f"hi {i}"), ("assistant", f"ho {i}")) for i in range(60)]

CONVERSATIONS = [
    rows("messages that are a text", [{"messages": "hi"}], "line 1", "'messages'", "a list", '"role"'),
    rows("messages that are null", [{"messages": None}], "line 1", "'messages'", "a list", "None"),
    rows("no messages", [{"messages": []}], "line 1", "'messages'", "a list", "[]"),
    rows("a turn that is a text", [{"messages": ["hi"]}], "line 1", "turn 1", '"role"', "'hi'"),
    rows("a turn without a role", [{"messages": [{"content": "hi"}]}], "line 1", "turn 1", "role"),
    rows("a turn without content", [{"messages": [{"role": "user"}]}], "turn 1", "null"),
    rows("a number as a role", [turns((1, "hi"))], "turn 1", "role"),
    rows("an image in the content", [turns(("user", [{"type": "image", "url": "x"}]))], "turn 1", "image"),
    rows("an answer of blanks", [turns(("user", "a"), ("assistant", " "))], "turn 2", "assistant's", "empty"),
    rows("a question of blanks", [turns(("user", "\n"), ("assistant", "b"))], "turn 1", "user's", "empty"),
    rows(
        "a misspelled role",
        [turns(("user", "a"), ("asistant", "b"))],
        "turn 2",
        "'asistant'",
        "Did you mean 'assistant'",
    ),
    rows("a role in capitals", [turns(("User", "a"), ("Assistant", "b"))], "turn 1", "'User'", "Did you mean 'user'"),
    rows(
        "no answer of the assistant",
        [turns(("user", "hi")), turns(("user", "ho"))],
        "no turn that the assistant answers",
        "any of its 2",
    ),
    rows(
        "only the assistant speaks",
        [turns(("assistant", "hi"))] * 3,
        "no turn that the assistant answers",
        "any of its 3",
    ),
    rows(
        "lone surrogate in a role's name",
        ['{"messages": [{"role": "u\\ud800", "content": "a"}, {"role": "assistant", "content": "b"}]}'],
        "line 1",
        "lone surrogate",
    ),
    taken(
        rows(
            "the last word is the user's",
            [turns(("user", f"hi {i}"), ("assistant", "ho"), ("user", "bye")) for i in range(60)],
            "sft",
        )
    ),
    taken(
        rows(
            "the assistant begins",
            [turns(("assistant", "hello"), ("user", f"hi {i}"), ("assistant", "ho")) for i in range(60)],
            "sft",
        )
    ),
    taken(
        rows(
            "two questions in a row",
            [turns(("user", f"hi {i}"), ("user", "well?"), ("assistant", "ho")) for i in range(60)],
            "sft",
        )
    ),
    taken(
        rows(
            "the system speaks last",
            [turns(("user", f"hi {i}"), ("assistant", "ho"), ("system", "be kind")) for i in range(60)],
            "sft",
        )
    ),
    taken(
        rows(
            "keys of a turn that are not read",
            [{"messages": [{**turn, "weight": None} for turn in row["messages"]]} for row in TALK],
            "sft",
        )
    ),
]


def sharegpt(*pairs: tuple[Any, Any], **row: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": value} for role, value in pairs], **row}


def answered(**turn: Any) -> list[Any]:
    """A conversation whose answer says more than a text."""
    return [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **turn}]}]


CALLS = {"function": {"name": "f", "arguments": "{}"}}

CONVERSATIONS += [
    taken(rows("ShareGPT's form", [sharegpt(("human", f"hi {i}"), ("gpt", "ho")) for i in range(60)], "sft", "User")),
    rows("an unknown speaker", [sharegpt(("human", "a"), ("elf", "b"))], "turn 2", "'elf'", "roles: {user: elf}"),
    rows(
        "ShareGPT's roles in OpenAI's form",
        [turns(("human", "a"), ("gpt", "b"))],
        "roles: {user: human, assistant: gpt}",
    ),
    rows("two system messages", [sharegpt(("system", "a"), ("human", "b"), system="c")], "'system'", "Keep one"),
    rows(
        "a call that is not JSON",
        [sharegpt(("human", "a"), ("function_call", "f(x)"))],
        "turn 2",
        "valid JSON",
        "'f(x)'",
    ),
    rows("conversations that are a text", [{"conversations": "hi"}], "'conversations'", "a list"),
    rows(
        "turns with other names",
        [{"talk": [{"speaker": "A", "text": "hi"}, {"speaker": "B", "text": "ho"}]}],
        "columns: {messages: talk, role: speaker, content: text} and roles: {user: A, assistant: B}",
    ),
    taken(
        rows(
            "turns whose names are mapped",
            [{"talk": [{"who": "A", "text": f"hi {i}"}, {"who": "B", "text": "ho"}]} for i in range(60)],
            "sft",
            "User",
            data__columns={"messages": "talk", "role": "who", "content": "text"},
            data__roles={"user": "A", "assistant": "B"},
        )
    ),
    rows(
        "turns whose names are mapped, their speakers not",
        [{"messages": [{"who": "A", "text": "hi"}, {"who": "B", "text": "ho"}]}],
        "turn 1",
        "'A'",
        "roles: {user: A, assistant: B}",
        data__columns={"role": "who", "content": "text"},
    ),
    rows(
        "tools that the template does not write", [{**TALK[0], "tools": [CALLS]}], "tools", "never read", "1 of 1 rows"
    ),
    rows("tools that are not JSON", [{**TALK[0], "tools": "f"}], "'tools'", "valid JSON", "'f'"),
    rows("tools that are a number", [{**TALK[0], "tools": 7}], "'tools'", "must be a list", "7"),
    rows("calls that the template does not write", answered(tool_calls=[CALLS]), "'tool_calls' (turn 2)", "never read"),
    rows("a call without a name", answered(tool_calls=[{"function": {}}]), "turn 2", "call of a tool", "name"),
    rows("calls that are a number", answered(tool_calls=7), "turn 2", "call of a tool", "7"),
    rows(
        "a call with a list of arguments",
        answered(tool_calls=[{"function": {"name": "f", "arguments": "[1]"}}]),
        "'f'",
        "an object",
        "[1]",
    ),
    rows("tools as Python prints them", [{**TALK[0], "tools": "[{'name': 'f'}]"}], "'tools'", "valid JSON", "'name'"),
    rows("reasoning that the template does not write", answered(reasoning="r"), "'reasoning' (turn 2)", "never read"),
    rows("reasoning that is a number", answered(thinking=7), "turn 2: 'thinking'", "must be text", "7"),
    rows("weight and train that disagree", answered(weight=1, train=False), "turn 2", "'train' is False", "Keep one"),
    rows("a list of texts as a content", [turns(("user", ["a", "b"]))], "turn 1", "must be text", "list"),
    *(
        rows(
            f"{kind} in the content", [turns(("user", [{"type": kind, kind: "x"}]))], "turn 1", f"'{kind}'", "only text"
        )
        for kind in ("image_url", "input_audio", "audio", "video")
    ),
    *(
        rows(f"{kind} beside a conversation", [{**TALK[0], kind: "a.mp4"}], f"'{kind}'", "remove the column")
        for kind in ("image", "audio", "video")
    ),
    rows(
        "the result of a tool at the beginning",
        [turns(("tool", "12:30"), ("user", "q"), ("assistant", "a"))],
        "turn 1, the result of a tool",
        "follows nothing",
        "drop the row",
    ),
    rows(
        "the result of a tool after a question",
        [sharegpt(("human", "q"), ("observation", "12:30"), ("gpt", "a"))],
        "turn 2, the result of a tool",
        "a turn of the user",
        "Put the call before it",
    ),
    rows(
        "the result of another call",
        [
            {
                "messages": [
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "tool_calls": [{**CALLS, "id": "a1"}]},
                    {"role": "tool", "content": "12:30", "tool_call_id": "a2"},
                    {"role": "assistant", "content": "a"},
                ]
            }
        ],
        "turn 3, the result of a tool",
        "'a2'",
        "a1",
        "tool_call_id",
    ),
    rows(
        "only the system speaks", [turns(("system", "be kind"))] * 3, "no turn that the assistant answers", "of its 3"
    ),
    taken(
        rows(
            "the system begins, and the assistant answers",
            [turns(("system", f"be kind {i}"), ("assistant", "yes")) for i in range(60)],
            "sft",
            "'yes",
        )
    ),
    taken(
        rows(
            "contents that are lists of texts' parts",
            [
                turns(("user", [{"type": "text", "text": f"hi {i}"}]), ("assistant", [{"text": "ho"}]))
                for i in range(60)
            ],
            "sft",
            "'ho",
        )
    ),
    rows("a key of a turn that nothing reads", answered(prefix=True), "turn 2", "'prefix'", "1 of 1 rows"),
    rows("half a weight", answered(weight=0.5), "turn 2", "'weight' is 0.5", "must be 1 (trained on) or 0"),
    rows("a weight that is a text", answered(weight="0"), "turn 2", "'weight' is '0'", "must be 1 (trained on) or 0"),
    rows("weight 0 for every answer", answered(weight=0), "weight 0", "Drop the row"),
    rows(
        "a question to be trained on",
        [{"messages": [{"role": "user", "content": "q", "train": True}, {"role": "assistant", "content": "a"}]}],
        "turn 1",
        "'train' is True",
        "only turns of the assistant",
    ),
    rows("pictures beside a conversation", [{**TALK[0], "images": ["a.png"]}], "'images'", "remove the column"),
    taken(
        rows(
            "an answer of weight 0",
            [
                {"messages": [*row["messages"][:1], {**row["messages"][1], "weight": 0}, *TALK[i - 1]["messages"]]}
                for i, row in enumerate(TALK)
            ],
            "sft",
            "'ho",
        )
    ),
]


def template(what: str, text: str, *words: str) -> Case:
    """Conversations with a chat template of one's own."""
    made = rows(what, TALK, *words, data__chat_template="t.jinja")
    return Case(made.what, made.arguments, made.words, {**made.files, "t.jinja": text.encode()})


BLANK = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"

TEMPLATES = [
    taken(
        template(
            "a chat template whose prompt ends with a blank",
            BLANK + "{% if add_generation_prompt %}assistant: {% endif %}",
            "sft",
        )
    ),
    template(
        "a chat template that leaves turns out", "{% for m in messages[1:] %}{{ m.content }}{% endfor %}", "turn 1"
    ),
    template("a chat template that needs all memory", "{{ 'a' * 10**14 }}", "rejects this conversation", "Memory"),
    rows(
        "a chat template that is not there",
        TALK,
        "chat_template",
        "chat.jinja",
        "UTF-8",
        data__chat_template="nowhere/chat.jinja",
    ),
    template("an invalid chat template", "{% for m in messages %}", "line 1", "not valid Jinja"),
    template(
        "a chat template that calls Python", "{{ messages.__class__.__mro__ }}", "line 1", "chat template", "unsafe"
    ),
    template("a chat template without end", "{{ 'a' * 10**18 }}", "line 1", "rejects this conversation"),
    template("a chat template that divides by zero", "{{ 1 // 0 }}", "line 1", "rejects this conversation"),
    template(
        "a chat template that refuses",
        "{{ raise_exception('no') }}",
        "line 1",
        "rejects this conversation: no",
        "another template",
    ),
    template(
        "a chat template that wants turns to alternate",
        "{% if messages[1].role != 'user' %}{{ raise_exception('Roles must alternate') }}{% endif %}",
        "line 1",
        "rejects this conversation",
        "Roles must alternate",
        "user, assistant",
    ),
    template(
        "a chat template without marks",
        "{% for m in messages %}{{ m.content }}{{ loop.length }}{% endfor %}",
        "generation",
    ),
]


def splits(what: str, train: list[Any], valid: list[Any], *words: str, **settings: Any) -> Case:
    """A folder with files for train, valid and test."""
    made = data(what, "d", b"", *words, **settings)
    files = {"d/train.jsonl": lines(*train), "d/valid.jsonl": lines(*valid), "d/test.jsonl": lines(*valid)}
    return Case(made.what, made.arguments, words, files)


SPLITS = [
    splits("test rows that are all of train", PAIRS, PAIRS, "60 of 60 rows of train", "would be empty"),
    splits(
        "rows of train in test, forbidden",
        PAIRS,
        PAIRS[:3],
        "3 of 60 rows",
        "train:1",
        "duplicates: drop",
        data__duplicates="error",
    ),
    splits("an empty validation file", PAIRS, [], "d/valid.jsonl", "is empty"),
    splits(
        "valid has other columns", PAIRS, [{"text": "a"}], "d/valid.jsonl, line 1", "'prompt'", "Columns found: text"
    ),
    splits(
        "a label that train lacks",
        LABELS,
        [label("a", "new"), label("c", "newer")],
        "valid:2",
        "'c'",
        "does not occur in train",
        "1 of 2",
        "a, b",
        data__duplicates="keep",
    ),
    splits(
        "valid without one text",
        [{"text": f"a {i}"} for i in range(9)],
        [{"text": " "}],
        "no text in any of its 1 rows",
    ),
    rows("shares that leave no row", PAIRS[:2], "too few to make", "data.split"),
]

SETTINGS = [
    rows(
        "a placeholder without a column",
        PAIRS,
        "'promt'",
        "data.template",
        "Did you mean 'prompt'",
        data__template="{promt}",
    ),
    rows("a brace that does not end", PAIRS, "data.template", "{prompt", "write two", data__template="{prompt"),
    rows("a placeholder without a name", PAIRS, "data.template", "{prompt}", data__template="{}"),
    rows("a placeholder with a format", PAIRS, "data.template", "{prompt}", data__template="{prompt:>9}"),
    rows(
        "a placeholder that looks into Python",
        PAIRS,
        "'prompt.__class__'",
        "data.template",
        data__template="{prompt.__class__}",
    ),
    rows(
        "a column mapped to nothing", PAIRS, "'querstion'", "prompt, completion", data__columns={"prompt": "querstion"}
    ),
    rows("units by a column that is not there", PAIRS, "'module'", "data.group", data__group="module"),
    rows("units by a column of lists", [{**row, "g": [1]} for row in PAIRS], "line 1", "'g'", "list", data__group="g"),
    rows("a task that needs other columns", PAIRS, "'text'", "the task classify", task="classify"),
    rows(
        "prompts beyond the maximum",
        [pair("word " * 50), *PAIRS],
        "train: 1 of",
        "32 tokens",
        "the prompt alone fills 1 of them",
        "train:1",
        "max_truncated",
        "max_length",
        data__max_length=32,
        data__max_truncated=0,
    ),
    rows(
        "answers beyond the maximum",
        [pair("p", "word " * 50), *PAIRS],
        "train: 1 of",
        "32 tokens",
        "train:1",
        "max_truncated",
        data__max_length=32,
        data__max_truncated=0,
    ),
]

TOPICS: dict[str, list[Case]] = {
    "Values": VALUES,
    "Labels": LABELLED,
    "Conversations": CONVERSATIONS,
    "Chat templates": TEMPLATES,
    "Splits and duplicates": SPLITS,
    "Settings that do not fit the data": SETTINGS,
}
