"""Laws of tokens and masks: what a model reads, what it is trained on, and where a text ends."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from law_tokenizers import (
    Prepared,
    as_example,
    bare_ids,
    encode_pair,
    make_study,
    supervised_ids,
    tokenizer_of,
    write_rows,
)

from tunewise.errors import DataError
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import make_batch, step_rows
from tunewise.lab.data.examples import prompt_ids, prompt_length
from tunewise.lab.evaluate import answer as answer_module
from tunewise.lab.evaluate.generate import Generated, generate
from tunewise.lab.models.load import load_base
from tunewise.lab.train.loop import Loop, train

GENERATIVE = ("tiny", "gpt2", "stories260k", "awkward")
SHORT_ANSWERS = [("The sky is", " blue"), ("Grass is", " green"), ("Snow is", " white"), ("Coal is", " black")]
# as Llama's: the template writes BOS itself, and the tokenizer would add one too
WITH_BOS = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}:\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
)


def conversations(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}]}
        for i in range(count)
    ]


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(count)]


def files(tmp_path: Path, train: list[dict[str, Any]]) -> dict[str, Any]:
    """`train`, and a short row each for valid and test."""
    others = {
        split: write_rows(tmp_path / f"{split}.jsonl", [{"prompt": split, "completion": "c"}])
        for split in ("valid", "test")
    }
    return {"train": write_rows(tmp_path / "train.jsonl", train), **others}


# --- 5: the end


@pytest.mark.parametrize("name", GENERATIVE)
def test_law_05_padding_with_the_end_of_text_hides_no_end_that_is_trained_on(name: str) -> None:
    """Every whole answer is trained to end, once, also in a batch that is padded with the end-of-text piece itself."""
    end = tokenizer_of(name).eos_token_id
    examples = [as_example(encode_pair(name, "ask", "a b " * length)) for length in (1, 4, 9)]
    batch = make_batch(examples, range(3), padding=end)
    ends = [
        owner
        for owner, target in zip(batch.example_of_N.tolist(), batch.targets_N.tolist(), strict=True)
        if target == end
    ]
    assert ends == [0, 1, 2], "one target of every example is its end"
    padding = batch.input_ids_BT[batch.attention_mask_BT == 0]
    assert len(padding) > 0
    assert set(padding.tolist()) == {end}, "the same piece is hidden where it is padding"
    read = batch.input_ids_BT[batch.attention_mask_BT == 1]
    assert (read == end).sum() == 3, "and read where it ends a text"
    assert batch.num_targets == sum(sum(example.supervised) for example in examples), "padding is never a target"


@pytest.mark.parametrize("kind", ["pairs", "conversations", "documents"])
def test_law_05_an_example_lacks_its_end_only_where_it_was_cut(kind: str, tmp_path: Path) -> None:
    """Every kept example has its end-of-text label unless it was truncated, whatever the kind of data."""
    rows = {
        "pairs": pairs(60),
        "conversations": conversations(60),
        "documents": [{"text": f"text {i}"} for i in range(60)],
    }
    long = {
        "pairs": [{"prompt": "long", "completion": "word " * 90}],
        "conversations": [
            {"messages": [{"role": "user", "content": "long"}, {"role": "assistant", "content": "word " * 90}]}
        ],
        "documents": [],
    }
    train = write_rows(tmp_path / "rows.jsonl", rows[kind] + long[kind])
    prepared = Prepared(make_study({"train": train, "max_length": 40}), tmp_path / "out")
    end = tokenizer_of("tiny").eos_token_id
    members = [example for split in prepared.examples.values() for example in split]
    unended = [example for example in members if supervised_ids(example)[-1] != end]
    assert len(members) == 60 + len(long[kind])
    assert len(unended) == sum(split.truncated_rows for split in prepared.summary.splits) == len(long[kind])
    assert all(example.example == "train:61" for example in unended)


def test_law_05_answers_that_a_chat_template_leaves_open_are_counted(tmp_path: Path) -> None:
    """A template that writes no end-of-text is found: the rows are counted and three of them named."""
    template = tmp_path / "open.jinja"
    template.write_text(WITH_BOS.replace("{{ eos_token }}", ""))
    train = write_rows(tmp_path / "chat.jsonl", conversations(40))
    unended = Prepared(make_study({"train": train, "chat_template": str(template)}), tmp_path / "open")
    ended = Prepared(make_study({"train": train}), tmp_path / "ended")
    count, shown = unended.law("end-of-text")
    assert count == len(unended.examples["train"]) > 3
    assert shown == tuple(example.example for example in unended.examples["train"][:3])
    assert ended.law("end-of-text") == (0, ())


def test_law_05_a_tuned_model_stops_by_itself() -> None:
    """After some steps on short answers the bundled model ends its own text; before, it ran on to the cap."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of("tiny")
    model = load_base("tiny", "sft", (), tokenizer, False).model
    prompts = [bare_ids("tiny", prompt) for prompt, _ in SHORT_ANSWERS]

    def written() -> list[Generated]:
        return generate(model, tokenizer, prompts, 12, max_tokens=1000)

    assert not any(one.stopped for one in written())
    examples = [as_example(encode_pair("tiny", prompt, answer)) for prompt, answer in SHORT_ANSWERS]
    steps = [[make_batch(examples, rows, tokenizer.eos_token_id)] for rows in step_rows(4, 4, 30, seed=0)]
    loop = Loop(
        torch.optim.AdamW(model.parameters(), lr=1e-3), [1.0] * 30, 1.0, Compute("cpu", "fp32"), lambda *_: None
    )
    assert len(list(train(model, steps, loop))) == 30
    assert all(one.stopped for one in written())
    assert [one.text for one in written()] == [answer for _, answer in SHORT_ANSWERS]


# --- 6: truncation


def test_law_06_every_row_and_answer_token_that_truncation_takes_is_counted(tmp_path: Path) -> None:
    """Rows cut and answer tokens lost are the difference to the same data with room enough, token by token."""
    rows = [
        *pairs(60),
        {"prompt": "word " * 60, "completion": "lost answer"},
        {"prompt": "p", "completion": "word " * 60},
    ]
    data = files(tmp_path, rows)
    whole = Prepared(make_study(data), tmp_path / "whole")
    cut = Prepared(make_study({**data, "max_length": 32}), tmp_path / "cut")
    learnt_whole = {e.example: sum(e.supervised) for e in whole.examples["train"]}
    learnt_cut = {e.example: sum(e.supervised) for e in cut.examples["train"]}
    assert "train:61" not in learnt_cut, "its prompt alone fills the room: dropped, so no masked row reaches the loss"
    assert all(learnt_cut.values())
    lost = {row: learnt_whole[row] - learnt_cut.get(row, 0) for row in learnt_whole}
    figures = cut.summary.splits[0]
    assert figures.truncated_tokens == sum(lost.values())
    assert figures.truncated_rows == sum(tokens > 0 for tokens in lost.values()) == 2
    assert cut.law("truncation") == (2, ("train:61", "train:62"))
    assert cut.law("supervised") == (1, ("train:61",))
    assert whole.law("truncation") == (0, ())


@pytest.mark.parametrize(("share", "refused"), [(0.05, False), (0.049, True)])
def test_law_06_more_truncation_than_declared_is_an_error(share: float, refused: bool, tmp_path: Path) -> None:
    """1 row of 20 may be cut where 5 % are allowed, and is an error that names the row where 4.9 % are."""
    data = files(tmp_path, [*pairs(19), {"prompt": "p", "completion": "word " * 60}])
    study = make_study({**data, "max_length": 32, "max_truncated": share})
    if not refused:
        assert Prepared(study, tmp_path / "out").summary.splits[0].truncated_rows == 1
        return
    with pytest.raises(DataError, match=r"1 of 20 rows \(5\.0%\) are longer than 32 tokens.*train:20"):
        Prepared(study, tmp_path / "out")


# --- 8: one way from text to tokens


def written_study(kind: str, tmp_path: Path) -> tuple[Any, Callable[[int], str]]:
    """A study of one kind of prompts, and the prompt of row `i` as a user types it."""
    rows = conversations(40) if kind == "conversations" else pairs(40)
    data: dict[str, Any] = {"train": write_rows(tmp_path / f"{kind}.jsonl", rows)}
    if kind == "template":
        data |= {"template": "Q: {prompt}", "separator": "\nA:"}
    return make_study(data), lambda row: f"question {row}"


@pytest.mark.parametrize("kind", ["pairs", "template", "conversations"])
def test_law_08_a_tuned_model_reads_a_prompt_as_it_was_trained(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids that reach the model in use are those before the answer in training, up to `model.generate` itself."""
    study, prompt = written_study(kind, tmp_path)
    prepared = Prepared(study, tmp_path / "out")
    reached: list[list[int]] = []

    def spy(_: Any, input_ids: torch.Tensor, **others: Any) -> torch.Tensor:
        assert others["attention_mask"].all()
        reached.extend(input_ids.tolist())
        return input_ids

    tokenizer = tokenizer_of("tiny")
    base = load_base("tiny", "sft", (), tokenizer, False)
    monkeypatch.setattr(type(base.model), "generate", spy)
    monkeypatch.setattr(answer_module, "load_base", lambda *_: base)
    for example in prepared.examples["train"]:
        trained = example.input_ids[: prompt_length("sft", example.supervised)]
        asked = prompt(int(example.example.removeprefix("train:")) - 1)
        assert prompt_ids(study, "sft", tokenizer, asked) == trained
    summary: Any = SimpleNamespace(**vars(prepared.summary), chat_template=None)
    answer_module.answer(study, summary, {}, asked, 5)
    assert reached == [trained], "`tunewise generate` of the last row"


@pytest.mark.parametrize("name", GENERATIVE)
def test_law_08_training_ids_are_those_of_the_chat_template_with_at_most_one_bos(name: str, tmp_path: Path) -> None:
    """A conversation is trained on as `apply_chat_template(tokenize=True)` writes it, and begins with BOS once."""
    tokenizer = tokenizer_of(name)
    template = tmp_path / "chat.jinja"
    template.write_text(WITH_BOS)
    train = write_rows(tmp_path / "chat.jsonl", conversations(40))
    study = make_study({"train": train, "chat_template": str(template)})
    prepared = Prepared(study, tmp_path / "out", name)
    for example in prepared.examples["train"]:
        row = int(example.example.removeprefix("train:")) - 1
        messages = conversations(40)[row]["messages"]
        whole = tokenizer.apply_chat_template(messages, chat_template=WITH_BOS, tokenize=True)
        assert example.input_ids == whole["input_ids"]
        asked = tokenizer.apply_chat_template(
            messages[:1], chat_template=WITH_BOS, tokenize=True, add_generation_prompt=True
        )
        assert prompt_ids(study, "sft", tokenizer, messages[0]["content"]) == asked["input_ids"]
        if name == "stories260k":
            assert example.input_ids[0] == tokenizer.bos_token_id
            assert example.input_ids.count(tokenizer.bos_token_id) == 1
            assert asked["input_ids"].count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("prompt", ["Once", "<s> Once", "<s>Once"])
def test_law_08_a_prompt_that_writes_its_own_bos_gets_no_second_one(prompt: str) -> None:
    """A tokenizer that puts BOS before every text does so once, also where the text brings its own."""
    ids = encode_pair("stories260k", prompt, "upon a time").input_ids
    bos = tokenizer_of("stories260k").bos_token_id
    assert ids[0] == bos
    assert ids.count(bos) == 1


# --- 9: the boundary


@pytest.mark.parametrize(
    ("name", "prompt", "answer"),
    [
        ("awkward", "what is a\n", "b a  b"),
        ("awkward", "Q: a\nA:", " b"),
        ("gpt2", "Count: ", "one"),
        ("tiny", "a ", "b"),
    ],
)
def test_law_09_no_token_lies_across_prompt_and_answer_where_one_string_would_merge(
    name: str, prompt: str, answer: str
) -> None:
    """Where a tokenizer merges over the boundary, ids are still those of the prompt, then those of the answer."""
    example = encode_pair(name, prompt, answer)
    end = tokenizer_of(name).eos_token_id
    ids_prompt, ids_answer = bare_ids(name, prompt), bare_ids(name, answer)
    as_one = bare_ids(name, prompt + answer)
    assert as_one[: len(ids_prompt)] != ids_prompt, "this tokenizer merges here, or nothing is tested"
    assert example.input_ids == [*ids_prompt, *ids_answer, end]
    assert example.supervised == [False] * len(ids_prompt) + [True] * (len(ids_answer) + 1)
    assert example.merges, "and it is counted"


def test_law_09_merges_over_the_boundary_are_counted_and_named(tmp_path: Path) -> None:
    """Of 40 prompts the 5 that end in a blank would merge with the answer as one string: 5 are counted, 3 shown."""
    rows = [{"prompt": f"number {i}:" + " " * (i < 5), "completion": "one two"} for i in range(40)]
    data = files(tmp_path, rows)
    prepared = Prepared(make_study({**data, "separator": ""}), tmp_path / "out")
    assert prepared.law("boundary") == (5, ("train:1", "train:2", "train:3"))


# --- 10: the supervised share


@pytest.mark.parametrize("kind", ["pairs", "conversations", "documents"])
def test_law_10_the_supervised_share_is_above_0_and_at_most_1(kind: str, tmp_path: Path) -> None:
    """Supervised tokens over tokens is the share of True in the masks, in (0, 1] for every split and example."""
    rows = {
        "pairs": pairs(60),
        "conversations": conversations(60),
        "documents": [{"text": f"text {i}"} for i in range(60)],
    }
    prepared = Prepared(make_study({"train": write_rows(tmp_path / "t.jsonl", rows[kind])}), tmp_path / "out")
    for figures in prepared.summary.splits:
        members = prepared.examples[figures.split]
        shares = [sum(example.supervised) / len(example.input_ids) for example in members]
        assert all(0 < share <= 1 for share in shares)
        assert figures.supervised_tokens == sum(sum(example.supervised) for example in members)
        assert figures.tokens == sum(len(example.input_ids) for example in members)
        assert 0 < figures.supervised_tokens / figures.tokens <= 1


def test_law_10_nothing_to_train_on_is_an_error_before_training(tmp_path: Path) -> None:
    """A share of 0 is refused while the data is prepared: prompts fill the context, a template marks nothing."""
    data = files(tmp_path, [{"prompt": "word " * 60, "completion": "lost"}] * 20)
    with pytest.raises(DataError, match="train: no row contains anything to train on"):
        Prepared(make_study({**data, "max_length": 32, "max_truncated": 1.0}), tmp_path / "out")
    template = tmp_path / "unmarked.jinja"
    marks_nothing = "{% if false %}{% generation %}{% endgeneration %}{% endif %}"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}" + marks_nothing)
    chat = write_rows(tmp_path / "chat.jsonl", conversations(40))
    with pytest.raises(DataError, match="marks no token of this conversation"):
        Prepared(make_study({"train": chat, "chat_template": str(template)}), tmp_path / "out")
