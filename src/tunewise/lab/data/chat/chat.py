"""Conversations: a chat template turns them into text, and the assistant's turns are trained on."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from tunewise.errors import DataError
from tunewise.lab.data.chat.template import TEMPLATE_ERRORS, ChatTemplate
from tunewise.lab.data.chat.tools import with_text_arguments
from tunewise.lab.data.chat.turns import Conversation, read_conversation
from tunewise.lab.data.chat.written import prints_python, require_written
from tunewise.lab.data.rows import (
    Cells,
    EncodedRow,
    Row,
    Text,
    UnreadError,
    checked_text,
    read_references,
    require_read,
    runs,
)
from tunewise.lab.data.tokens import Encoding, TextTokenizer, lies_across
from tunewise.spec import DataSpec


class Joined(NamedTuple):
    """A text whose parts were tokenized separately, with the interface of an `Encoding` of a whole text."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Chat:
    """ids = tokens of the rendered conversation, with special tokens as the template writes them.

    Supervised are the tokens of the assistant's turns, as the template marks them with {% generation %}, except turns
    of weight 0. Without marks the conversation is rendered up to before and after each of these turns, which must be
    prefixes of the whole; what follows the last end-of-text token of a turn is then left out. If a token would span the
    beginning of such an answer, the text before it and the answer are tokenized separately, as in use. Long examples
    are truncated at their end.
    """

    unit = "conversation"
    nothing = "no turn that the assistant answers"

    def __init__(self, data: DataSpec, tokenizer: TextTokenizer, max_length: int) -> None:
        self.roles = data.roles
        self.tokenizer = tokenizer
        self.end = tokenizer.end
        self.special_ids = frozenset(tokenizer.tokenizer.all_special_ids)
        self.max_length = max_length
        self.template = ChatTemplate(data.chat_template, tokenizer.tokenizer)

    def render(self, cells: Cells) -> Text | None:
        """The conversation up to the last answer, and that answer; None if there is none to train on."""
        require_read(cells, "a conversation", ("tools", "functions"))
        _require_whole(cells)
        said, text = self._as_read(read_conversation(cells, self.roles), cells.place)
        answers = [turn for turn in said.answers() if turn > 0]
        if not answers and said.untrained - {0}:
            raise DataError(
                f"{cells.place}: every answer of the assistant has weight 0, so none is trained on. Drop the row."
            )
        if not answers:
            return None
        checked_text(text, f"{cells.place}: the conversation as the chat template writes it")
        drops_reasoning = require_written(
            said,
            text,
            lambda other: self.template.write(other.messages, other.tools),
            cells.place,
            self.template.advice_on_tools(),
        )
        prompt = self.template.written(
            said.messages[: answers[-1]], said.tools, cells.place, add_generation_prompt=True
        )
        answer = said.messages[answers[-1]].get("content", "")
        return Text(prompt, answer, said.messages, said.tools, said.untrained, read_references(cells), drops_reasoning)

    def _as_read(self, said: Conversation, place: str) -> tuple[Conversation, str]:
        """The conversation with call arguments as the template takes them (object or JSON), and its text."""
        if not any("tool_calls" in message for message in said.messages):
            return said, self.template.written(said.messages, said.tools, place)
        try:
            text = self.template.write(said.messages, said.tools)
        except TEMPLATE_ERRORS:
            text = None  # some templates concatenate the arguments with other text
        if text is not None and not prints_python(said, text):
            return said, text
        as_json = replace(said, messages=with_text_arguments(said.messages))
        return as_json, self.template.written(as_json.messages, as_json.tools, place)

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """One example per conversation. Raises DataError if the template does not show which tokens are answers."""
        texts = [self.template.written(row.text.messages, row.text.tools, row.example) for row in rows]
        encodings = self.tokenizer.encode(texts)
        merges = [
            text.startswith(row.text.prompt) and lies_across(encoding, len(row.text.prompt))
            for row, text, encoding in zip(rows, texts, encodings, strict=True)
        ]
        if self.template.has_marks:
            whole: list[Encoding | Joined] = list(encodings)
            masks = self._marked(rows, encodings)
        else:
            whole, masks = self._compared(rows, texts, encodings)
        examples = [self._cut(*item) for item in zip(rows, texts, whole, masks, strict=True)]
        return [replace(example, merges=across) for example, across in zip(examples, merges, strict=True)]

    def read_prompt(self, prompt: str) -> list[int]:
        """The prompt as a first turn of the user. Raises DataError."""
        text = self.template.written(
            [{"role": "user", "content": prompt}], (), "the prompt", add_generation_prompt=True
        )
        return self.tokenizer.ids([text])[0]

    def _marked(self, rows: Sequence[Row], encodings: Sequence[Encoding]) -> list[list[bool]]:
        masks: list[list[bool]] = []
        for tools, members in itertools.groupby(rows, key=lambda row: row.text.tools):
            batch = self.template.tokens_and_marks([row.text.messages for row in members], tools)
            ids = [encoding.ids for encoding in encodings[len(masks) : len(masks) + len(batch["input_ids"])]]
            assert batch["input_ids"] == ids, "both ways from text to tokens agree"
            masks += [[bool(mark) for mark in marks] for marks in batch["assistant_masks"]]
        return [self._trained(*item) for item in zip(rows, encodings, masks, strict=True)]

    def _trained(self, row: Row, encoding: Encoding, mask: list[bool]) -> list[bool]:
        """The mask without turns that are not trained on. Raises DataError if marks and turns do not match."""
        if not row.text.untrained:
            return mask
        spans = self.template.marked_spans(row.text.messages, row.text.tools)
        turns = [turn for turn, message in enumerate(row.text.messages) if message["role"] == "assistant"]
        if len(spans) != len(turns):
            raise DataError(
                f"{row.example}: the chat template marks {len(spans)} texts as the assistant's, but the conversation "
                f"has {len(turns)} turns of the assistant, so those with weight 0 cannot be identified. "
                "Put one {% generation %} and {% endgeneration %} around each turn in a copy of the template, and "
                "give that file in data.chat_template."
            )
        left_out = [span for turn, span in zip(turns, spans, strict=True) if turn in row.text.untrained]
        places = zip(encoding.offsets, mask, strict=True)
        return [mark and not any(start <= place < stop for start, stop in left_out) for (place, _), mark in places]

    def _compared(
        self, rows: Sequence[Row], texts: Sequence[str], encodings: Sequence[Encoding]
    ) -> tuple[list[Encoding | Joined], list[list[bool]]]:
        """Encodings and masks, found by rendering each conversation up to before and after each answer.

        The encodings are those given, except if a token spans the beginning of an answer.
        """
        answers = [(item, turn) for item, row in enumerate(rows) for turn in _answers(row)]
        before = [self._up_to(rows[item], turn, add_generation_prompt=True) for item, turn in answers]
        after = [self._up_to(rows[item], turn + 1) for item, turn in answers]
        openings, closings = self.tokenizer.ids(before), self.tokenizer.ids(after)
        masks = [[False] * len(encoding.ids) for encoding in encodings]
        merged: dict[int, list[tuple[int, int]]] = {}  # rows with a spanning token: the characters of each answer
        for i, (item, turn) in enumerate(answers):
            ids = encodings[item].ids
            is_prefix = ids[: len(openings[i])] == openings[i] and ids[: len(closings[i])] == closings[i]
            if not is_prefix and not (texts[item].startswith(before[i]) and texts[item].startswith(after[i])):
                raise _not_a_prefix(rows[item], turn)
            if not is_prefix:
                merged[item] = []
            self._mark(masks[item], ids, len(openings[i]), len(closings[i]))
        for (item, _), opening, closing in zip(answers, before, after, strict=True):
            if item in merged:
                merged[item].append((len(opening), len(closing)))
        whole: list[Encoding | Joined] = list(encodings)
        for item, spans in merged.items():
            whole[item], masks[item] = self._apart(rows[item], texts[item], spans)
        return whole, masks

    def _mark(self, mask: list[bool], ids: list[int], start: int, stop: int) -> None:
        """Tokens of an answer, up to its last end-of-text token."""
        if self.end in ids[start:stop]:
            stop -= ids[start:stop][::-1].index(self.end)
        mask[start:stop] = [True] * (min(stop, len(ids)) - start)

    def _apart(self, row: Row, text: str, answers: Sequence[tuple[int, int]]) -> tuple[Joined, list[bool]]:
        """Tokens and mask with each answer, and what follows it, tokenized separately from what precedes it."""
        places = [0, *(start for start, _ in answers), len(text)]
        pieces = self.tokenizer.encode([text[start:stop] for start, stop in itertools.pairwise(places)])
        shifted = [
            [(start + place, stop + place) for start, stop in piece.offsets]
            for place, piece in zip(places, pieces, strict=False)
        ]
        encoding = Joined([token for piece in pieces for token in piece.ids], list(itertools.chain(*shifted)))
        mask = [False] * len(encoding.ids)
        for start, stop in answers:
            if any(first < stop < last for first, last in encoding.offsets):
                raise _runs_on(row, text[start:stop])
            inside = [place for place, (first, _) in enumerate(encoding.offsets) if start <= first < stop]
            self._mark(mask, encoding.ids, inside[0], inside[-1] + 1)
        return encoding, mask

    def _up_to(self, row: Row, turn: int, add_generation_prompt: bool = False) -> str:
        return self.template.written(row.text.messages[:turn], row.text.tools, row.example, add_generation_prompt)

    def _cut(self, row: Row, text: str, encoding: Encoding | Joined, supervised: list[bool]) -> EncodedRow:
        if not any(supervised):
            raise DataError(
                f"{row.example}: the chat template marks no token of this conversation as the assistant's. "
                "Put {% generation %} and {% endgeneration %} around what the assistant says, end of turn included."
            )
        supervised = [False, *supervised[1:]]  # the first token has no context that could predict it
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
            references=row.text.references,
        )

    def _spoken(self, encoding: Encoding | Joined, supervised: list[bool]) -> list[tuple[int, int]]:
        """Ranges of the text covered by supervised tokens, without special tokens (end of turn)."""
        marks = zip(encoding.ids, supervised, strict=False)
        spoken = [mark and token not in self.special_ids for token, mark in marks]
        return [(encoding.offsets[start][0], encoding.offsets[stop - 1][1]) for start, stop in runs(spoken)]


def _require_whole(cells: Cells) -> None:
    """Raise UnreadError for a row with a weight of its own: here all rows count equally."""
    for name in ("weight", "train"):
        if (weight := cells.row.get(name)) not in (None, 1):
            raise UnreadError(
                name,
                f"{cells.place}: the column '{name}' is {weight!r:.40}, but all rows count equally. Put '{name}' into "
                "the assistant's turns that must not be trained on, drop the row, or remove the column.",
            )


def _answers(row: Row) -> list[int]:
    turns = Conversation(row.text.messages, untrained=row.text.untrained).answers()
    if turns[0] == 0:
        raise DataError(
            f"{row.example}: the conversation begins with the assistant, but the chat template has no "
            "{% generation %} marks that identify this turn's tokens. Mark them in a copy of it "
            "(data.chat_template), or give the turn weight 0, so that it is read but not trained on."
        )
    return turns


def _not_a_prefix(row: Row, turn: int) -> DataError:
    return DataError(
        f"{row.example}: the chat template writes turn {turn + 1} differently when the conversation continues, so the "
        "assistant's tokens cannot be identified. Put {% generation %} and {% endgeneration %} around the "
        "assistant's text in a copy of the template, and give that file in data.chat_template."
    )


def _runs_on(row: Row, answer: str) -> DataError:
    return DataError(
        f"{row.example}: the chat template puts nothing between the answer {answer[-40:]!r} and what follows that "
        "the tokenizer keeps separate: one token spans the end of one and the beginning of the other. Write the "
        "end-of-text token after each answer in a copy of the template, and give that file in data.chat_template."
    )
