"""Text to token ids, with the special tokens that a tokenizer adds around a text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tunewise.errors import ModelError
from tunewise.lab.data.words import Words, is_exact, word_at

if TYPE_CHECKING:
    from tokenizers import Encoding as BackendEncoding
    from transformers import PreTrainedTokenizerBase

LONG_TEXT = 2**20  # characters of a text that is tokenized as a whole
WORDS_AROUND = 3  # on each side of a boundary: the word next to it may be part of a token that spans it
FAR = 2**12  # characters around a boundary in a long text
PROBE = "ab cd, ef. gh  ij\nkl 12 \u96ea\u306e x"


class Encoding:
    """One text as tokens; token i covers text[offsets[i][0]:offsets[i][1]]."""

    __slots__ = ("_offsets", "_tokens", "ids")

    def __init__(self, tokens: "BackendEncoding") -> None:
        self.ids: list[int] = tokens.ids
        self._tokens = tokens
        self._offsets: list[tuple[int, int]] | None = None

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Offsets of all tokens; for a single one `end_of` takes a hundredth of the time."""
        if self._offsets is None:
            self._offsets = self._tokens.offsets
        return self._offsets

    def end_of(self, token: int) -> int:
        """End of a token in the text."""
        return _place(self._tokens, token)[1]


class WordIds:
    """One text as ids, found word by word."""

    __slots__ = ("ids", "read", "text")

    def __init__(self, text: str, ids: list[int], read: Callable[[Sequence[str]], list[Encoding]]) -> None:
        self.text, self.ids, self.read = text, ids, read

    def end_of(self, token: int) -> int:
        """End of a token in the text, which is read as a whole unless the token must be its end."""
        if token == len(self.ids) - 1 and not self.text[-1].isspace():  # of white space a tokenizer may count less
            return len(self.text)
        return self.read([self.text])[0].end_of(token)


def _place(tokens: "BackendEncoding", token: int) -> tuple[int, int]:
    found = tokens.token_to_chars(token)
    assert found is not None, "every token is inside the text"
    return found


def _is_across(tokens: "BackendEncoding", boundary: int) -> bool:
    """`lies_across` without the offsets of every token."""
    token = tokens.char_to_token(boundary)  # the first one that covers the character after the boundary
    return token is not None and _place(tokens, token)[0] < boundary


def lies_across(encoding: Encoding, boundary: int) -> bool:
    """True if a token covers the characters on both sides of `boundary`."""
    return any(start < boundary < stop for start, stop in encoding.offsets)


def _several_words(text: str, boundary: int) -> tuple[int, int]:
    """Start and end of the two words before and after the boundary."""
    start = boundary
    for _ in range(WORDS_AROUND):
        start = max(text.rfind(" ", 0, start), 0)
    stop = boundary
    for _ in range(WORDS_AROUND):
        stop = text.find(" ", stop + 1)
        if stop < 0:
            return start, len(text)
    return start, stop


@dataclass(frozen=True)
class TextTokenizer:
    """A fast tokenizer and the special tokens that it adds before and after one text."""

    tokenizer: "PreTrainedTokenizerBase"
    prefix: list[int]  # [BOS] or [CLS] or nothing
    suffix: list[int]  # [SEP] or nothing

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "TextTokenizer":
        """The tokenizer with its prefix and suffix determined. Raises ModelError for a tokenizer that is not fast."""
        if not tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer {type(tokenizer).__name__} does not report which characters a token covers. "
                "Choose a model with a tokenizer.json (a fast tokenizer)."
            )
        bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
        framed: list[int] = tokenizer("a")["input_ids"]
        for start in range(len(framed) - len(bare) + 1):
            if framed[start : start + len(bare)] == bare:
                return cls(tokenizer, framed[:start], framed[start + len(bare) :])
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} tokenizes a text differently with special "
            "tokens. Choose another model."
        )

    @property
    def end(self) -> int:
        """Id of the end-of-text token. Raises ModelError if there is none: a tuned model could never stop."""
        end: int | None = self.tokenizer.eos_token_id
        if end is None:
            raise ModelError(
                "the tokenizer has no end-of-text token, so a model tuned with it would never stop. "
                "Set eos_token in the model's tokenizer_config.json."
            )
        return end

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokens of each text without special tokens."""
        return [Encoding(tokens) for tokens in self._encode(texts)]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids that `encode` gives."""
        return [tokens.ids for tokens in self._encode(texts)]

    def beginnings(self, texts: Sequence[str], most: int) -> list[Encoding | WordIds]:
        """As `encode`, but for a text of over LONG_TEXT characters possibly only its first tokens, more than `most`.

        They are those of the whole text: as much text again follows the last one that counts, so that nothing further
        on can affect them.
        """
        encodings = self._short([text if len(text) <= LONG_TEXT else "" for text in texts])
        for place, text in enumerate(texts):
            if len(text) > LONG_TEXT:
                encodings[place] = self._beginning(text, most)
        return encodings

    def _short(self, texts: Sequence[str]) -> list[Encoding | WordIds]:
        if self._words is None:
            return [*self.encode(texts)]
        found = zip(texts, self._words.ids(texts), strict=True)
        return [WordIds(text, ids, self.encode) for text, ids in found]

    @cached_property
    def _words(self) -> Words | None:
        """None: tokens of words are not known to be those of the text."""
        mark = self.tokenizer.eos_token
        if mark is None or not is_exact(self.tokenizer.backend_tokenizer) or self.ids([mark]) != [[self.end]]:
            return None
        return Words(self.ids, (mark, self.end))

    def _beginning(self, text: str, most: int) -> Encoding:
        length = max(LONG_TEXT // 16, 32 * most)
        while length < len(text):
            (found,) = self.encode([text[:length]])
            if len(found.ids) > most and found.end_of(most - 1) <= length // 2:
                return found
            length *= 4
        return self.encode([text])[0]

    def _encode(self, texts: Sequence[str]) -> list["BackendEncoding"]:
        if not texts:
            return []
        backend: Any = self.tokenizer.backend_tokenizer
        backend.no_truncation()  # texts beyond the model's context are truncated and counted by the caller
        backend.no_padding()
        encodings: list[BackendEncoding] = backend.encode_batch(list(texts), add_special_tokens=False)
        return encodings

    def merges(self, texts: Sequence[str], boundaries: Sequence[int]) -> list[bool]:
        """True for each text in which, as one string, a token spans the given character boundary."""
        pairs = zip(texts, boundaries, strict=True)
        is_local = self._parts_at_spaces
        around = [self._around(*pair) if is_local or len(pair[0]) > LONG_TEXT else pair for pair in pairs]
        distinct = list(dict.fromkeys(text for text, _ in around))
        found = dict(zip(distinct, self._encode(distinct), strict=True))
        return [_is_across(found[text], boundary) for text, boundary in around]

    def _around(self, text: str, boundary: int) -> tuple[str, int]:
        """The words around the boundary, and its place in them."""
        start, stop = word_at(text, boundary) if self._words else _several_words(text, boundary)
        if len(text) > LONG_TEXT:  # possibly without a space
            start, stop = max(start, boundary - FAR), min(stop, boundary + FAR)
        return text[start:stop], boundary - start

    @cached_property
    def _parts_at_spaces(self) -> bool:
        """True if the tokenizer splits at spaces first, so that later words cannot affect earlier tokens.

        This is tested: no token of a probe text, and no added token, continues after a space.
        """
        backend: Any = self.tokenizer.backend_tokenizer
        if any(" " in token.content.strip() for token in backend.get_added_tokens_decoder().values()):
            return False
        if backend.pre_tokenizer is None:
            return False
        pieces = backend.pre_tokenizer.pre_tokenize_str(PROBE)
        return all(PROBE.find(" ", start + 1, stop) < 0 or not PROBE[start:stop].strip() for _, (start, stop) in pieces)

    def begin(self, ids: list[int]) -> list[int]:
        """`ids` with the prefix before them, unless the text already begins with that prefix: never two BOS tokens."""
        return ids if ids[: len(self.prefix)] == self.prefix else self.prefix + ids
