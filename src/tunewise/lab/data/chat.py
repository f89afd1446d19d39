"""Conversations: a chat template makes them text, and the assistant's turns are trained on."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from tunewise.errors import DataError
from tunewise.lab.data.rows import Cells, EncodedRow, Row, Text, checked_text, runs
from tunewise.lab.data.tokens import Encoding, TextTokenizer, lies_across
from tunewise.registry import near_miss
from tunewise.spec import DataSpec

# What a template, which is a program of others, may raise for a conversation that it was not written for.
TEMPLATE_ERRORS = (
    *(jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError, AttributeError),
    MemoryError,
)
ROLES = ("system", "user", "assistant")
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")

Messages = Sequence[dict[str, Any]]


class Chat:
    """ids = the tokens of the rendered conversation, special tokens as the template writes them.

    Supervised are the tokens of the assistant's turns, as the template marks them with {% generation %}. Without marks
    the conversation is rendered up to before and after each of these turns, which must be prefixes of the whole, token
    by token; what follows the last end-of-text piece of a turn is then left out. What is too long loses its end.
    """

    unit = "conversation"
    nothing = "no turn that the assistant answers"

    def __init__(self, data: DataSpec, tokenizer: TextTokenizer, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.end = tokenizer.end
        self.special_ids = frozenset(tokenizer.tokenizer.all_special_ids)
        self.max_length = max_length
        self.template = read_template(data.chat_template, tokenizer.tokenizer)

    def render(self, cells: Cells) -> Text | None:
        """The conversation up to the last answer, and that answer; None where the assistant answers nothing."""
        messages = _messages(cells)
        answers = [turn for turn, message in enumerate(messages) if message["role"] == "assistant" and turn > 0]
        if not answers:
            return None
        try:
            self._render(messages)
            prompt = self._render(messages[: answers[-1]], add_generation_prompt=True)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(
                f"the chat template, line {error.lineno}, is no Jinja template: {error.message}."
            ) from error
        except TEMPLATE_ERRORS as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise DataError(f"{cells.place}: the chat template does not take this conversation: {reason}.") from error
        checked_text(prompt, f"{cells.place}: the conversation as the chat template writes it")
        return Text(prompt, messages[answers[-1]]["content"], messages)

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """One example per conversation. Raises DataError if the template does not tell which tokens are answers."""
        texts = [self._render(row.text.messages) for row in rows]
        encodings = self.tokenizer.encode(texts)
        supervise = self._marked if GENERATION_MARK.search(self.template) else self._compared
        masks = supervise(rows, encodings)
        return [self._cut(*item) for item in zip(rows, texts, encodings, masks, strict=True)]

    def read_prompt(self, prompt: str) -> list[int]:
        """The prompt as what a user says first."""
        text = self._render([{"role": "user", "content": prompt}], add_generation_prompt=True)
        return self.tokenizer.ids([text])[0]

    def _render(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        text: str = self.tokenizer.tokenizer.apply_chat_template(
            list(messages),
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return text

    def _marked(self, rows: Sequence[Row], encodings: Sequence[Encoding]) -> list[list[bool]]:
        batch: Any = self.tokenizer.tokenizer.apply_chat_template(
            [list(row.text.messages) for row in rows],
            chat_template=self.template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
        )
        assert batch["input_ids"] == [encoding.ids for encoding in encodings], "one way from text to tokens"
        return [[bool(mark) for mark in marks] for marks in batch["assistant_masks"]]

    def _compared(self, rows: Sequence[Row], encodings: Sequence[Encoding]) -> list[list[bool]]:
        """Supervised tokens told by rendering each conversation up to before and after each answer."""
        spans = [(row, encoding, turn) for row, encoding in zip(rows, encodings, strict=True) for turn in _answers(row)]
        before = self.tokenizer.ids([self._render(row.text.messages[:turn], True) for row, _, turn in spans])
        after = self.tokenizer.ids([self._render(row.text.messages[: turn + 1]) for row, _, turn in spans])
        masks = {row.example: [False] * len(encoding.ids) for row, encoding in zip(rows, encodings, strict=True)}
        for (row, whole, turn), opening, closing in zip(spans, before, after, strict=True):
            if whole.ids[: len(opening)] != opening or whole.ids[: len(closing)] != closing:
                raise _not_a_prefix(row, turn)
            start, stop = len(opening), len(closing)
            if self.end in whole.ids[start:stop]:
                stop -= whole.ids[start:stop][::-1].index(self.end)
            masks[row.example][start:stop] = [True] * (stop - start)
        return list(masks.values())

    def _cut(self, row: Row, text: str, encoding: Encoding, supervised: list[bool]) -> EncodedRow:
        if not any(supervised):
            raise DataError(
                f"{row.example}: the chat template marks no token of this conversation as the assistant's. "
                "Put {% generation %} and {% endgeneration %} around what the assistant says, end of turn included."
            )
        supervised = [False, *supervised[1:]]  # the first token has nothing to be predicted from
        kept = supervised[: self.max_length]
        spans = self._spoken(encoding, kept)
        first, last = spans[-1] if spans else (len(text), len(text))
        return EncodedRow(
            example=row.example,
            unit=row.unit,
            input_ids=encoding.ids[: self.max_length],
            supervised=kept,
            num_bytes=sum(len(text[start:stop].encode()) for start, stop in spans),
            label=-1,
            prompt=text[:first],
            reference=text[first:last],
            cut_tokens=sum(supervised[self.max_length :]),
            merges=text.startswith(row.text.prompt) and lies_across(encoding, len(row.text.prompt)),
        )

    def _spoken(self, encoding: Encoding, supervised: list[bool]) -> list[tuple[int, int]]:
        """Where in the text the supervised tokens stand, special tokens (end of turn) aside."""
        marks = zip(encoding.ids, supervised, strict=False)
        spoken = [mark and token not in self.special_ids for token, mark in marks]
        return [(encoding.offsets[start][0], encoding.offsets[stop - 1][1]) for start, stop in runs(spoken)]


def _answers(row: Row) -> list[int]:
    turns = [turn for turn, message in enumerate(row.text.messages) if message["role"] == "assistant"]
    if turns[0] == 0:
        raise DataError(
            f"{row.example}: the conversation begins with the assistant, and the chat template has no "
            "{% generation %} marks to tell this turn's tokens. Mark them in a copy of it (data.chat_template)."
        )
    return turns


def _not_a_prefix(row: Row, turn: int) -> DataError:
    return DataError(
        f"{row.example}: the chat template writes turn {turn + 1} differently when the conversation goes on, so which "
        "tokens are the assistant's cannot be told. Put {% generation %} and {% endgeneration %} around the "
        "assistant's text in a copy of the template, and name that file in data.chat_template."
    )


def read_template(name: str | None, tokenizer: Any) -> str:
    """The Jinja template in the file `name`, or the tokenizer's template of this name; None: the tokenizer's own.

    Raises DataError where there is none, naming those that there are.
    """
    templates = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    names = ", ".join(sorted(templates))
    if name is None:
        try:
            own: str = tokenizer.get_chat_template()
        except ValueError as error:
            if templates:
                raise DataError(
                    f"the tokenizer has several chat templates ({names}), and none is called default. Choose one by "
                    f"its name: data.chat_template: {min(templates)}."
                ) from error
            raise DataError(
                "the data holds conversations, but the tokenizer has no chat template. "
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


def _messages(cells: Cells) -> tuple[dict[str, Any], ...]:
    value = cells.value("messages", "the task sft")
    what = f"{cells.place}: 'messages'"
    if not isinstance(value, list) or not value:
        raise DataError(
            f'{what} must be a list such as [{{"role": "user", "content": "..."}}, ...], but is {value!r:.80}.'
        )
    messages = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise DataError(
                f'{what}: turn {number} must be {{"role": "...", "content": "..."}}, but is {message!r:.80}.'
            )
        role = message["role"]
        if role not in ROLES and (near := near_miss(role.strip().lower(), ROLES)):
            raise DataError(f"{what}: turn {number} has the role '{role[:80]}'.{near} Roles are told by their names.")
        content = checked_text(message.get("content"), f"{what}: the content of turn {number}")
        if role in ("user", "assistant") and not content.strip():
            raise DataError(f"{what}: turn {number}, the {role}'s, is empty. Fill it in, or drop the row.")
        # Parquet fills keys that other rows have with null, which templates would print
        messages.append({key: part for key, part in message.items() if part is not None})
    return tuple(messages)
