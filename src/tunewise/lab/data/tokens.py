"""Text to token ids, together with the pieces that a tokenizer itself puts around a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tunewise.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Encoding(NamedTuple):
    """One text as tokens; token i covers text[offsets[i][0]:offsets[i][1]]."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def lies_across(encoding: Encoding, boundary: int) -> bool:
    """Whether a token covers the characters on both sides of `boundary`."""
    return any(start < boundary < stop for start, stop in encoding.offsets)


@dataclass(frozen=True)
class TextTokenizer:
    """A fast tokenizer and the special tokens that it adds before and after one text."""

    tokenizer: "PreTrainedTokenizerBase"
    prefix: list[int]  # [BOS] or [CLS] or nothing
    suffix: list[int]  # [SEP] or nothing

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "TextTokenizer":
        """The tokenizer with its prefix and suffix found out. Raises ModelError for a tokenizer that is not fast."""
        if not tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer {type(tokenizer).__name__} cannot tell which characters a token covers. "
                "Choose a model with a tokenizer.json (a fast tokenizer)."
            )
        bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
        framed: list[int] = tokenizer("a")["input_ids"]
        for start in range(len(framed) - len(bare) + 1):
            if framed[start : start + len(bare)] == bare:
                return cls(tokenizer, framed[:start], framed[start + len(bare) :])
        raise ModelError(f"the tokenizer {type(tokenizer).__name__} writes a text differently with special tokens.")

    @property
    def end(self) -> int:
        """The id of the end-of-text piece. Raises ModelError where there is none: a tuned model could never stop."""
        end: int | None = self.tokenizer.eos_token_id
        if end is None:
            raise ModelError(
                "the tokenizer has no end-of-text piece, so a model tuned with it would never stop. "
                "Set eos_token in the model's tokenizer_config.json."
            )
        return end

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """The tokens of each text by itself, no special tokens added."""
        if not texts:
            return []
        batch = self._encode(texts, return_offsets_mapping=True)
        return [Encoding(*pair) for pair in zip(batch["input_ids"], batch["offset_mapping"], strict=True)]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids that `encode` gives, in half its time."""
        return list(self._encode(texts)["input_ids"]) if texts else []

    def _encode(self, texts: Sequence[str], **options: bool) -> Any:
        return self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # longer than the model's context is dealt with, and counted, by the caller
            **options,
        )

    def merges(self, texts: Sequence[str], boundaries: Sequence[int]) -> list[bool]:
        """Whether a token of each text, as one string, lies across the character boundary given for it."""
        pairs = zip(self.encode(texts), boundaries, strict=True)
        return [lies_across(encoding, boundary) for encoding, boundary in pairs]

    def begin(self, ids: list[int]) -> list[int]:
        """`ids` with the prefix before them, unless the text already begins with it: never two BOS."""
        return ids if ids[: len(self.prefix)] == self.prefix else self.prefix + ids
