"""Law 46: reasoning that a template leaves out of a trained answer is refused, and turns have a possible order."""

import copy
from pathlib import Path
from typing import Any

import pytest
from law_tokenizers import tokenizer_of
from test_unknown_conversation_fields import AS_OBJECT, CALL, COUNT, TOOL, prepared, read_and_trained, said, unmarked

from tunewise.errors import DataError
from tunewise.lab.data.chat.template import ChatTemplate

# as Qwen3 does: reasoning in a field or before </think>, written only after the last turn of the user
DROPS_EARLIER = (
    "{% set ns = namespace(last=0) %}{% for m in messages if m.role == 'user' %}{% set ns.last = ns.last + 2 %}"
    "{% endfor %}{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}"
    "{% set text = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m.reasoning_content or m.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% if loop.index >= ns.last and (m.reasoning_content or '</think>' in m.content) %}[{{ thought }}]{% endif %}"
    "{{ text }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NEVER = DROPS_EARLIER.replace("loop.index >= ns.last", "false")
FORMS = ("field", "content")


def thinking(form: str, *thoughts: str | None, **first: Any) -> list[dict[str, Any]]:
    """Rows whose answers have this reasoning, in a field of its own or in the content; `first`: of the first answer."""
    turns = [
        ({"reasoning_content": text} if form == "field" else {"content": f"<think>{text}</think>answer {place}"})
        if text
        else {}
        for place, text in enumerate(thoughts)
    ]
    return said({**turns[0], **first}, *turns[1:])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("template", [DROPS_EARLIER, unmarked(DROPS_EARLIER)], ids=["marked", "unmarked"])
def test_law_46_reasoning_of_the_last_answer_is_trained_on(template: str, form: str, tmp_path: Path) -> None:
    end = tokenizer_of("tiny").eos_token
    for _, trained in read_and_trained(prepared(tmp_path, thinking(form, "hm"), template)):
        assert trained == f"[hm]answer 0{end}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("template", [DROPS_EARLIER, unmarked(DROPS_EARLIER)], ids=["marked", "unmarked"])
def test_law_46_an_answer_is_not_trained_on_without_its_reasoning(template: str, form: str, tmp_path: Path) -> None:
    """The template leaves it out as the conversation goes on; the way out is a row for each answer."""
    what = "'reasoning_content'" if form == "field" else "the text before </think>"
    with pytest.raises(DataError, match=rf"leaves out {what} \(turn 2\) because the conversation goes on.*weight 0"):
        prepared(tmp_path, thinking(form, "hm", "well"), template)
    with pytest.raises(DataError, match=rf"does not write {what} \(turn 2\), so the model would never read it"):
        prepared(tmp_path, thinking(form, "hm"), unmarked(NEVER))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("template", [DROPS_EARLIER, unmarked(DROPS_EARLIER)], ids=["marked", "unmarked"])
def test_law_46_reasoning_left_out_of_turns_that_are_only_read_is_counted(
    template: str, form: str, tmp_path: Path
) -> None:
    """In use the template leaves it out as well, so the row is good; a note says how many there are."""
    found = prepared(tmp_path, thinking(form, "hm", "well", weight=0), template)
    end = tokenizer_of("tiny").eos_token
    for text, trained in read_and_trained(found):
        assert f"<assistant>answer 0{end}<user>" in text
        assert trained == f"[well]answer 1{end}"
    rows = len(found.examples["train"])
    (note,) = [note for note in found.summary.notes if "reasoning" in note]
    assert f"only read in {rows} of {rows} rows of train" in note
    plain = prepared(tmp_path / "plain", thinking(form, None, "well"), template)
    assert not [note for note in plain.summary.notes if "reasoning" in note]


def test_law_46_reasoning_under_two_names_is_one(tmp_path: Path) -> None:
    """Some programs write the same reasoning twice; of two different ones, the one that is not written is refused."""
    both = prepared(tmp_path, said({"reasoning_content": "hm", "thinking": "hm"}), DROPS_EARLIER)
    assert both.examples == prepared(tmp_path / "one", thinking("field", "hm"), DROPS_EARLIER).examples
    with pytest.raises(DataError, match="'thinking' .turn 2."):
        prepared(tmp_path / "two", said({"reasoning_content": "hm", "thinking": "well"}), DROPS_EARLIER)


def test_law_46_calls_of_every_turn_are_written(tmp_path: Path) -> None:
    only_first = AS_OBJECT.replace("m.tool_calls or []", "((m.tool_calls or []) if loop.index == 2 else [])")
    prepared(tmp_path, said({"tool_calls": [CALL]}, {}), only_first)
    with pytest.raises(DataError, match="'tool_calls' .turn 4."):
        prepared(tmp_path / "two", said({"tool_calls": [CALL]}, {"tool_calls": [CALL]}), only_first)


PARTS = AS_OBJECT.replace("{{ m.content or '' }}", "{% for part in m.content %}{{ part.text }}{% endfor %}")
PARTS = PARTS.replace("{{ m.content }}", "{% for part in m.content %}{{ part.text }}{% endfor %}")


@pytest.mark.parametrize("strip", [str, unmarked], ids=["marked", "unmarked"])
def test_law_46_a_template_that_reads_lists_of_parts_gets_them(strip: Any, tmp_path: Path) -> None:
    """Models that also read images have such templates; a text is then a list of one part, as servers pass it."""
    rows = said({"weight": 0}, {})
    texts = prepared(tmp_path, rows, strip(AS_OBJECT))
    assert prepared(tmp_path / "parts", rows, strip(PARTS)).examples == texts.examples


@pytest.mark.parametrize("strip", [str, unmarked], ids=["marked", "unmarked"])
def test_law_46_a_conversation_may_begin_with_the_system_alone(strip: Any, tmp_path: Path) -> None:
    """Without a turn of the user, the answer to the system's turn is trained on."""
    end = tokenizer_of("tiny").eos_token
    turns = [[{"role": "system", "content": f"s{i}"}, {"role": "assistant", "content": "a"}] for i in range(COUNT)]
    found = prepared(tmp_path, [{"messages": one} for one in turns], strip(AS_OBJECT))
    assert {trained for _, trained in read_and_trained(found)} == {f"a{end}"}
    apart = [{"system": one[0]["content"], "messages": one[1:]} for one in turns]
    assert prepared(tmp_path / "apart", apart, strip(AS_OBJECT)).examples == found.examples


def test_law_46_the_tokenizers_own_template_for_tools_is_named() -> None:
    """A tokenizer may keep a template for tools under another name, which servers choose by themselves."""
    tokenizer = copy.copy(tokenizer_of("tiny"))
    tokenizer.chat_template = {"default": unmarked(AS_OBJECT).replace("tools | tojson", "''"), "tool_use": AS_OBJECT}
    assert "data.chat_template: tool_use" in ChatTemplate(None, tokenizer).advice_on_tools()
    assert ChatTemplate("tool_use", tokenizer).advice_on_tools() == ""
    assert "tides" in ChatTemplate("tool_use", tokenizer).write([{"role": "user", "content": "q"}], [TOOL])
