"""Conversations: the same tokens as the template makes, and just the assistant's turns supervised."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Prepared, make_study, write_rows

from tunewise.errors import DataError
from tunewise.lab.data.chat.chat import Chat
from tunewise.lab.data.chat.template import GENERATION_MARK
from tunewise.lab.data.examples import prompt_length
from tunewise.lab.data.rows import Cells, EncodedRow, Row, Text
from tunewise.lab.data.tokens import TextTokenizer
from tunewise.spec import DataSpec

Conversation = list[dict[str, Any]]

# every turn ends with the end-of-text token and a new line, which is not the assistant's
TURNS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content }}{{ eos_token }}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# answers before the last turn are written differently, as templates do that drop old reasoning
REWRITTEN = (
    "{% for m in messages %}<{{ m.role }}>"
    "{{ m.content | upper if m.role == 'assistant' and not loop.last else m.content }}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NOT_IN_A_ROW = "{% if messages | length > 3 %}{{ raise_exception('too many turns') }}{% endif %}" + TURNS


def turns(*contents: str, first: str = "user") -> Conversation:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[number % 2], "content": content} for number, content in enumerate(contents)]


CONVERSATIONS: list[Conversation] = [
    turns("Hello there", "Hi. What can I do?"),
    turns("One", "Two", "Three", "Four", "Five", "Six"),
    turns("Naïve 雪?", "Größe \U0001f600 é", "and now?"),
    [{"role": "system", "content": "Be kind."}, *turns("Hm", "Yes\n\nindeed.", "So", "So.")],
    turns(" blanks around ", "  kept or trimmed \n", "x", "y"),
]


def unmarked(template: str) -> str:
    return re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)


def encode(
    tokenizer: Any, template: str, conversations: list[Conversation], folder: Path, max_length: int = 100_000
) -> list[EncodedRow]:
    path = folder / f"{abs(hash(template))}.jinja"
    path.write_text(template)
    chat = Chat(DataSpec(train="t", chat_template=str(path)), TextTokenizer.of(tokenizer), max_length)
    rows = [Row(f"train:{i}", "u", "k", Text("p", "a", tuple(turn))) for i, turn in enumerate(conversations, 1)]
    return chat.encode(rows)


def supervised_text(tokenizer: Any, encoded: EncodedRow) -> str:
    ids = [token for token, mark in zip(encoded.input_ids, encoded.supervised, strict=True) if mark]
    text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text


def answers(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation if message["role"] == "assistant"]


def test_the_bundled_tokenizer_brings_a_template_with_marks(tiny: Any) -> None:
    assert GENERATION_MARK.search(tiny.chat_template)


def test_the_bundled_template_supervises_each_answer_and_its_end(tiny: Any, tmp_path: Path) -> None:
    for encoded, conversation in zip(
        encode(tiny, tiny.chat_template, CONVERSATIONS, tmp_path), CONVERSATIONS, strict=True
    ):
        expected = [text.strip() for text in answers(conversation)]
        assert supervised_text(tiny, encoded) == "".join(text + tiny.eos_token for text in expected)
        assert encoded.num_bytes == sum(len(text.encode()) for text in expected)
        assert not encoded.supervised[0]


@pytest.mark.parametrize("tokenizer_name", ["tiny", "gpt2"])
@pytest.mark.parametrize("template", ["bundled", "turns"])
def test_marks_and_comparison_of_prefixes_supervise_the_same_tokens(
    template: str, tokenizer_name: str, tiny: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    text = tiny.chat_template if template == "bundled" else TURNS
    tokenizer = request.getfixturevalue(tokenizer_name)
    marked = encode(tokenizer, text, CONVERSATIONS, tmp_path)
    compared = encode(tokenizer, unmarked(text), CONVERSATIONS, tmp_path)
    assert marked == compared
    assert any(any(encoded.supervised) for encoded in marked)


def test_a_template_that_rewrites_earlier_turns_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train:2.*turn 2 differently.*generation.*data\.chat_template"):
        encode(tiny, REWRITTEN, [turns("a", "b"), turns("a", "b", "c", "d")], tmp_path)


def test_an_opening_answer_needs_marks(tiny: Any, tmp_path: Path) -> None:
    greeting = [turns("Welcome", "Thanks", "Bye", first="assistant")]
    assert supervised_text(tiny, encode(tiny, TURNS, greeting, tmp_path)[0]) == "Welcome<|endoftext|>Bye<|endoftext|>"
    with pytest.raises(DataError, match=r"begins with the assistant.*generation"):
        encode(tiny, unmarked(TURNS), greeting, tmp_path)


def test_a_long_conversation_loses_its_end_and_the_lost_answer_tokens_are_counted(tiny: Any, tmp_path: Path) -> None:
    whole = encode(tiny, tiny.chat_template, CONVERSATIONS[1:2], tmp_path)[0]
    for length in range(8, len(whole.input_ids) + 1):
        cut = encode(tiny, tiny.chat_template, CONVERSATIONS[1:2], tmp_path, length)[0]
        assert cut.input_ids == whole.input_ids[:length]
        assert cut.cut_tokens == sum(whole.supervised) - sum(cut.supervised)


def test_prompt_and_reference_of_a_sample_are_those_of_the_last_answer(tiny: Any, tmp_path: Path) -> None:
    for encoded in encode(tiny, tiny.chat_template, CONVERSATIONS, tmp_path):
        length = prompt_length("sft", encoded.supervised)
        assert tiny.decode(encoded.input_ids[:length]) == encoded.prompt
        assert tiny.decode(encoded.input_ids[length:]).startswith(encoded.reference)
        assert encoded.prompt.endswith("Assistant:\n")


def save(tmp_path: Path, conversations: list[Conversation]) -> str:
    return write_rows(tmp_path / "chat.jsonl", [{"messages": messages} for messages in conversations])


def test_conversations_without_an_answered_turn_are_left_out_and_counted(
    tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    chats = [turns(f"question {i}", f"answer {i}") for i in range(40)]
    unanswered = [turns("hello?"), turns("only me", first="assistant")]
    prepared = prepare(make_study({"train": save(tmp_path, chats + unanswered)}))
    assert sum(split.rows for split in prepared.summary.splits) == 40
    assert "2 of 42 rows of train were left out: no turn that the assistant answers." in prepared.summary.notes


def test_the_unit_is_the_conversation_up_to_its_last_answer(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    chats = [turns(f"question {i % 40}", f"answer {i}") for i in range(80)]
    prepared = prepare(make_study({"train": save(tmp_path, chats)}))
    assert sum(split.units for split in prepared.summary.splits) == 40
    assert prepared.summary.task == "sft"


def test_answers_that_do_not_end_with_the_end_of_text_are_remarked(
    tmp_path: Path, prepare: Callable[..., Prepared], tiny: Any
) -> None:
    endless = tmp_path / "endless.jinja"
    chats = save(tmp_path, [turns(f"question {i}", f"answer {i}") for i in range(40)])
    endless.write_text(TURNS.replace("{{ eos_token }}", ""))
    remarked = prepare(make_study({"train": chats, "chat_template": str(endless)}))
    assert any("may not stop there" in note for note in remarked.summary.notes)
    assert not any("may not stop there" in note for note in prepare(make_study({"train": chats})).summary.notes)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", r"chat template, line 1, is not valid Jinja"),
        (NOT_IN_A_ROW, r"chat\.jsonl, line 1: the chat template rejects this conversation: too many turns"),
    ],
)
def test_what_the_template_says_against_a_conversation_is_passed_on(
    template: str, message: str, tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text(template)
    chats = save(tmp_path, [turns("a", "b", "c", "d")])
    with pytest.raises(DataError, match=message):
        prepare(make_study({"train": chats, "chat_template": str(path)}))


def test_a_tokenizer_without_a_template_asks_for_one(
    tmp_path: Path, prepare: Callable[..., Prepared], gpt2: Any
) -> None:
    with pytest.raises(DataError, match=r"no chat template.*data\.chat_template"):
        prepare(make_study({"train": save(tmp_path, CONVERSATIONS)}), gpt2)


def test_keys_that_a_table_fills_with_null_are_not_seen_by_the_template(tiny: Any) -> None:
    messages = turns("a", "b")
    padded = [{**message, "tool_calls": None} for message in messages]
    chat = Chat(DataSpec(train="t"), TextTokenizer.of(tiny), 100)
    rendered = chat.render(Cells({"messages": padded}, "t.parquet, row 1", {}))
    assert rendered is not None
    assert list(rendered.messages) == messages


def test_the_first_token_is_never_supervised(tiny: Any, tmp_path: Path) -> None:
    bare = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    encoded = encode(tiny, bare, [turns("question", "answer")], tmp_path)[0]
    assert encoded.supervised == [False] + [True] * (len(encoded.input_ids) - 1)
