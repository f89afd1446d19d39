"""Tokens of texts word by word, for tokenizers of which this is known to be exact: most words of a data set repeat."""

import json
import re
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

# A single space between two words. All patterns below begin a new part there, and what they match before it ends there
# with and without what follows. More spaces are not split: before an added token, all of them are one part. White space
# of Python includes all of theirs, so a doubtful character only makes a word longer.
AT_SPACE = re.compile(r" (?<=\S )(?=\S)")
MOST_CHARACTERS = 2**20  # of remembered words, which take about 20 times that in bytes

# As in the tokenizer.json of Llama 3 and of Qwen 2, which differ in the digits of a part. GPT-2's is in ByteLevel.
PATTERNS = tuple(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}{1,3}", r"\p{N}")
)


def is_exact(backend: Any) -> bool:
    """Whether the tokens of a text are those of its words, each with the space before it.

    True for byte-level BPE with known patterns, an alphabet of all bytes, and added tokens that look at nothing around.
    """
    normalizer = backend.normalizer and json.loads(backend.normalizer.__getstate__())
    state = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer else {}
    parts = state.get("pretokenizers", [state])
    last = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": len(parts) == 1}
    return (
        normalizer in (None, {"type": "NFC"})  # which never joins a space with another character
        and {name: parts[-1].get(name) for name in last} == last
        and (len(parts) == 1 or (len(parts) == 2 and _splits_as_known(parts[0])))
        and type(backend.model).__name__ == "BPE"
        and not backend.model.dropout
        and all(backend.model.token_to_id(byte) is not None for byte in ByteLevel.alphabet())
        and not any(map(_looks_around, backend.get_added_tokens_decoder().values()))
    )


def _splits_as_known(part: dict[str, Any]) -> bool:
    known = part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"]
    return known and part["pattern"].get("Regex") in PATTERNS


def _looks_around(token: Any) -> bool:
    return bool(token.lstrip or token.rstrip or token.single_word or any(map(str.isspace, token.content)))


def word_at(text: str, place: int) -> tuple[int, int]:
    """Start and end of the word, with the space before it, that contains the character at `place`."""
    start, stop = text.rfind(" ", 0, place + 1), text.find(" ", place + 1)
    while start > 0 and not AT_SPACE.match(text, start):
        start = text.rfind(" ", 0, start)
    while stop >= 0 and not AT_SPACE.match(text, stop):
        stop = text.find(" ", stop + 1)
    return max(start, 0), stop if stop >= 0 else len(text)


class Words:
    """Ids of words, remembered. `encode` gives those of texts; `mark` is a special token, with its id."""

    def __init__(self, encode: Callable[[list[str]], list[list[int]]], mark: tuple[str, int]) -> None:
        self.encode, self.mark = encode, mark
        self.known: dict[str, list[int]] = {}  # of a word after a space
        self.characters = 0

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        rests = list(map(AT_SPACE.split, texts))
        firsts = self._each([words.pop(0) for words in rests])
        unknown = list(set().union(*rests) - self.known.keys())
        self.known.update(zip(unknown, self._each([f" {word}" for word in unknown]), strict=True))
        found = [
            list(chain(first, *map(self.known.__getitem__, words))) for first, words in zip(firsts, rests, strict=True)
        ]
        self.characters += sum(map(len, unknown))
        if self.characters > MOST_CHARACTERS:
            self.known.clear()
            self.characters = 0
        return found

    def _each(self, words: list[str]) -> list[list[int]]:
        """Ids of each word. All are one text with marks between: a call per word takes five times as long."""
        text, number = self.mark
        (ids,) = self.encode([text + text.join(words) + text])
        places = [place for place, token in enumerate(ids) if token == number]
        if len(places) == len(words) + 1:
            return [ids[start + 1 : stop] for start, stop in pairwise(places)]
        return self.encode(words)  # one of them contains the mark
