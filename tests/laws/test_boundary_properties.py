"""Law 9 as properties: prompt and answer, masks and batches, over tokenizers and whatever stands at the boundary."""

from collections import Counter

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from law_tokenizers import LOSSLESS, TOKENIZERS, as_example, bare_ids, encode_pair, supervised_ids, tokenizer_of

from tunewise.lab.data.batching import cut, make_batch, step_rows
from tunewise.lab.data.sft import Pairs
from tunewise.lab.data.tokens import TextTokenizer
from tunewise.spec import DataSpec

# letters of the awkward tokenizer's merges, blanks of every kind, a combining accent, letters of several bytes
AWKWARD_TEXTS = st.text("ab QA:.\n\t\u00a0\u0301é雪\U0001f600", min_size=1, max_size=16)
TEXTS = (AWKWARD_TEXTS | st.text(min_size=1, max_size=40)).filter(str.strip)
PLAIN_TEXTS = st.text("ab QA:\n", min_size=1, max_size=16).filter(str.strip)
SETTINGS = settings(max_examples=120, deadline=None, derandomize=True)


def readable(name: str, answer: str) -> bool:
    """Whether the tokenizer makes any token of the answer (WordPiece makes none of control characters)."""
    return bool(bare_ids(name, answer))


@pytest.mark.parametrize("name", TOKENIZERS)
@example(prompt="a ", answer=" b")
@example(prompt="what is a\n", answer="\n\nb")
@example(prompt="é", answer="e\u0301 \U0001f600")
@example(prompt="<|endoftext|>", answer="a")
@given(prompt=TEXTS, answer=TEXTS)
@SETTINGS
def test_law_09_an_example_is_the_prompts_ids_then_the_answers_ids_then_the_end(
    name: str, prompt: str, answer: str
) -> None:
    """The boundary comes from ids concatenated by construction: supervised are the answer's own tokens and the end."""
    assume(readable(name, answer))
    tokenizer = tokenizer_of(name)
    encoded = encode_pair(name, prompt, answer)
    learnt = supervised_ids(encoded)
    own = bare_ids(name, answer)
    assert learnt == (own if own[-1] == tokenizer.eos_token_id else [*own, tokenizer.eos_token_id])
    boundary = len(encoded.input_ids) - len(learnt)
    assert encoded.supervised == [False] * boundary + [True] * len(learnt)
    assert boundary > 0, "the first token has nothing to be predicted from"
    read = Pairs(DataSpec(train="t", separator=""), TextTokenizer.of(tokenizer), 100_000).read_prompt(prompt)
    assert encoded.input_ids[:boundary] == read, "a new prompt is read the same way"
    assert encoded.cut_tokens == 0


@pytest.mark.parametrize("name", LOSSLESS)
@given(prompt=TEXTS, answer=TEXTS)
@SETTINGS
def test_law_09_what_is_trained_on_reads_as_the_answer_character_by_character(
    name: str, prompt: str, answer: str
) -> None:
    """For tokenizers that lose nothing, the supervised tokens decode to the answer and the others to the prompt."""
    tokenizer = tokenizer_of(name)
    encoded = encode_pair(name, prompt, answer)
    learnt = supervised_ids(encoded)
    boundary = len(encoded.input_ids) - len(learnt)
    assert tokenizer.decode(learnt[:-1], clean_up_tokenization_spaces=False) == answer
    assert tokenizer.decode(encoded.input_ids[:boundary], clean_up_tokenization_spaces=False) == prompt
    assert encoded.num_bytes == len(answer.encode())


@pytest.mark.parametrize("name", LOSSLESS)
@example(prompt="a ", answer="b")
@given(prompt=PLAIN_TEXTS, answer=PLAIN_TEXTS)
@SETTINGS
def test_law_09_a_merge_is_counted_exactly_where_no_beginning_of_one_string_is_the_prompt(
    name: str, prompt: str, answer: str
) -> None:
    """A merge over the boundary means that no number of first tokens of prompt + answer decodes to the prompt."""
    as_one = bare_ids(name, prompt + answer)
    beginnings = (tokenizer_of(name).decode(as_one[:number]) for number in range(len(as_one) + 1))
    assert encode_pair(name, prompt, answer).merges == (prompt not in beginnings)


def test_law_09_the_awkward_tokenizer_does_merge_over_the_boundary() -> None:
    """The property above is not empty: of 49 boundaries some merge and some do not, on every lossless tokenizer."""
    sides = ["a", "a ", "a\n", " a", "\na", "a:", "b\n\n"]
    for name in LOSSLESS:
        merges = [encode_pair(name, prompt, answer).merges for prompt in sides for answer in sides]
        assert 0 < sum(merges) < len(merges), name


@pytest.mark.parametrize("name", TOKENIZERS)
@given(prompt=TEXTS, answer=TEXTS, max_length=st.integers(4, 30))
@SETTINGS
def test_law_06_a_long_answer_loses_its_end_and_every_lost_token_is_counted(
    name: str, prompt: str, answer: str, max_length: int
) -> None:
    """A cut example is the beginning of the whole one, and what it lost are the supervised tokens that it lacks."""
    assume(readable(name, answer))
    whole = encode_pair(name, prompt, answer)
    short = encode_pair(name, prompt, answer, max_length)
    assert short.input_ids == whole.input_ids[:max_length]
    assert short.supervised == whole.supervised[:max_length]
    assert short.cut_tokens == sum(whole.supervised) - sum(short.supervised)
    assert short.num_bytes <= whole.num_bytes


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    texts=st.lists(st.tuples(PLAIN_TEXTS, PLAIN_TEXTS), min_size=1, max_size=9),
    batch_size=st.integers(1, 4),
    max_tokens=st.integers(1, 80),
)
@settings(SETTINGS, max_examples=60)
def test_law_05_an_epoch_trains_on_every_answer_token_and_end_once_and_on_nothing_else(
    name: str, texts: list[tuple[str, str]], batch_size: int, max_tokens: int
) -> None:
    """Over the batches of an epoch, padded with the end itself, the targets are the answers' tokens, each once."""
    examples = [as_example(encode_pair(name, prompt, answer)) for prompt, answer in texts]
    seen: Counter[tuple[int, int]] = Counter()
    num_steps = -(-len(examples) // batch_size)
    for rows in step_rows(len(examples), batch_size, num_steps, seed=0):
        for piece in cut(examples, rows, max_tokens):
            batch = make_batch(examples, piece, padding=tokenizer_of(name).eos_token_id)
            owners = [batch.rows[owner] for owner in batch.example_of_N.tolist()]
            seen.update(zip(owners, batch.targets_N.tolist(), strict=True))
            flat_mask = batch.attention_mask_BT.flatten()
            assert flat_mask[batch.places_N].all(), "no target is predicted from padding"
            assert batch.num_tokens == int(flat_mask.sum())
    assert all(supervised_ids(one)[-1] == tokenizer_of(name).eos_token_id for one in examples)
    assert seen == Counter((row, token) for row, one in enumerate(examples) for token in supervised_ids(one))
