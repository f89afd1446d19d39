"""Tokens found word by word are those of the whole text."""

import random
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers
from tokenizers.pre_tokenizers import ByteLevel, Metaspace, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase

from tunewise.lab.data.tokens import TextTokenizer
from tunewise.lab.data.words import AT_SPACE, MOST_CHARACTERS, PATTERNS, Words, is_exact, word_at

MARK = "<|endoftext|>"
# letters, digits, contractions, marks to combine, everything that anybody calls white space, and the mark itself
CHARACTERS = [*"abc'sSTé雪の12³½.,:-_(", "\u0301", "\u0308", "\u200d", "\u200b", "\ufeff", "\u180e", *"\t\n\r\v\f"]
CHARACTERS += [*"\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2007\u2028\u2029\u202f\u205f\u3000", "'s", "the", MARK]


def random_text(rng: random.Random) -> str:
    return "".join(" " if rng.random() < 0.35 else rng.choice(CHARACTERS) for _ in range(rng.randrange(30)))


def backend(pattern: str | None = None, normalizer: Any = None) -> Tokenizer:
    """A tokenizer trained on such texts, so that it merges whatever its pattern lets it, white space as well."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    if pattern is not None:
        bytes_only = ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = Sequence([Split(Regex(pattern), "isolated"), bytes_only])
    if normalizer is not None:
        made.normalizer = normalizer
    rng, alphabet = random.Random(3), ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=3000, special_tokens=[MARK], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator((random_text(rng) for _ in range(4000)), trainer)
    return made


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()], ids=["as it is", "NFC"])
@pytest.mark.parametrize("pattern", [None, *PATTERNS], ids=["GPT-2", "Llama 3", "Qwen 2"])
def test_ids_of_words_are_those_of_the_text(pattern: str | None, normalizer: Any):
    made = backend(pattern, normalizer)
    assert is_exact(made)

    def encode(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in made.encode_batch(texts, add_special_tokens=False)]

    rng = random.Random(0)
    texts = [random_text(rng) for _ in range(4000)]
    words = Words(encode, (MARK, made.token_to_id(MARK)))
    assert [ids for start in range(0, 4000, 500) for ids in words.ids(texts[start : start + 500])] == encode(texts)


def test_words_are_forgotten_before_they_fill_memory(tiny: PreTrainedTokenizerBase):
    words = TextTokenizer.of(tiny)._words
    assert words is not None
    for number in range(3):
        words.ids([f"a {number} " + "x" * (MOST_CHARACTERS // 2)])
        assert sum(map(len, words.known)) <= MOST_CHARACTERS


def test_a_word_reaches_from_space_to_space():
    rng = random.Random(1)
    for text in filter(None, (random_text(rng) for _ in range(2000))):
        starts = [0, *(found.start() for found in AT_SPACE.finditer(text)), len(text)]
        place = rng.randrange(len(text))
        expected = (max(start for start in starts if start <= place), min(start for start in starts if start > place))
        assert word_at(text, place) == expected


def test_the_end_of_a_token_is_that_in_the_whole_text(tiny: PreTrainedTokenizerBase):
    tokenizer, rng = TextTokenizer.of(tiny), random.Random(2)
    texts = [text for text in (random_text(rng) for _ in range(500)) if text]
    for found, whole in zip(tokenizer.beginnings(texts, 8), tokenizer.encode(texts), strict=True):
        tokens = range(len(whole.ids))
        assert [found.end_of(token) for token in tokens] == [whole.end_of(token) for token in tokens]


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": Metaspace()},
        {"pre_tokenizer": ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": ByteLevel(add_prefix_space=False, use_regex=False)},
        {"pre_tokenizer": Sequence([Split(Regex("."), "isolated"), ByteLevel(False, use_regex=False)])},
        {"normalizer": normalizers.NFKC()},
    ],
)
def test_other_tokenizers_read_whole_texts(change: dict[str, Any]):
    made = backend()
    assert is_exact(made)
    for name, value in change.items():
        setattr(made, name, value)
    assert not is_exact(made)


@pytest.mark.parametrize("token", [AddedToken("<x>", lstrip=True), AddedToken("<x>", rstrip=True), "a b"])
def test_tokens_that_look_around_need_whole_texts(token: AddedToken | str):
    made = backend()
    made.add_tokens([token])
    assert not is_exact(made)
