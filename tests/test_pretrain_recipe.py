"""The recipe of the bundled base: what it makes loads with plain transformers, is deterministic and honest."""

import importlib.util
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SCRIPT = Path(__file__).parents[1] / "scripts" / "pretrain_base.py"
SIZES = {"epochs": 0.1, "context": 32, "batch": 8, "vocabulary": 300, "width": 16, "layers": 1, "heads": 2}
SMALL = [item for name, value in SIZES.items() for item in (f"--{name}", str(value))]
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "wise", "owls", "read", "books")


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("pretrain_base", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pretrain_base"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 450 paragraphs: nine blocks, the eighth of which is held out."""
    drawn = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "words.txt"
    paragraphs = [" ".join(drawn.choices(WORDS, k=8)).capitalize() + "." for _ in range(450)]
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return path


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """A model of this size waits for more threads longer than it computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def few_topics(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A single short topic, so that scoring the topics takes no time."""
    topics = ["A topic that nobody may train on, with forty letters or more.\n\nShort."]
    monkeypatch.setattr(recipe, "pydoc_topics", lambda: topics)
    return topics


def test_the_saved_folder_loads_with_transformers_and_scores_what_was_printed(
    recipe: ModuleType, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.main(["--text", str(text), "--out", str(tmp_path / "base"), *SMALL])

    printed = capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    stored = load_file(tmp_path / "base" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert (model.config.n_positions, model.config.n_embd, model.config.n_layer) == (32, 16, 1)
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == model.config.eos_token_id == 0
    assert tokenizer.decode(tokenizer("Übermut, tut selten gut.").input_ids) == "Übermut, tut selten gut."

    # the eighth block of fifty paragraphs, cut into windows of 32 tokens, each predicting 31
    held_out = "\n\n".join(text.read_text(encoding="utf-8").split("\n\n")[350:400])
    ids = [*tokenizer(held_out).input_ids, tokenizer.eos_token_id]
    windows = [ids[i : i + 32] for i in range(0, len(ids) - 31, 32)]
    losses = []
    for window in windows:
        with torch.no_grad():
            log_probabilities = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
        losses += [-log_probabilities[t, window[t + 1]].item() for t in range(31)]
    assert f"| {text} | {sum(losses) / len(losses):.3f} | {len(losses):,} |" in printed


def test_the_same_text_and_seed_make_the_same_weights(recipe: ModuleType, text: Path, tmp_path: Path) -> None:
    small = recipe.Recipe(**SIZES)
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        recipe.make_base(replace(small, epochs=0.01, seed=seed), [text], tmp_path / name)

    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in ("first", "again", "other")}
    assert all(torch.equal(tensor, weights["again"][name]) for name, tensor in weights["first"].items())
    assert any(not torch.equal(tensor, weights["other"][name]) for name, tensor in weights["first"].items())


def test_training_lowers_the_loss(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "WARMUP_STEPS", 1)
    small = recipe.Recipe(**SIZES | {"epochs": 1, "rate": 0.03})
    model = recipe.new_model(small)
    ids_WT = torch.randint(3, (160, 32), generator=torch.Generator().manual_seed(0))  # three parts of the 300

    before = recipe.held_out_loss(model, ids_WT, batch=8)
    recipe.pretrain(model, ids_WT, small)
    after = recipe.held_out_loss(model, ids_WT, batch=8)

    assert before.num_tokens == after.num_tokens == 160 * 31
    assert before.nats_per_token == pytest.approx(math.log(300), abs=0.3)
    assert math.log(3) - 0.1 < after.nats_per_token < math.log(300) / 2


def test_no_held_out_paragraph_and_no_pydoc_topic_is_trained_on(
    recipe: ModuleType, few_topics: list[str], tmp_path: Path
) -> None:
    topic = few_topics[0].split("\n\n")[0]
    own = [f"Paragraph number {i} of the file." for i in range(10_000)]
    marked_up = f"**{topic.upper()}**"  # other markup, the same words
    path = tmp_path / "file.txt"
    path.write_text("\n\n".join([*own[:60], topic, marked_up, *own[60:]]), encoding="utf-8")

    texts = recipe.read_texts([path], seed=0)

    train = "\n\n".join(texts.train).split("\n\n")
    held_out = "\n\n".join(texts.held_out[str(path)]).split("\n\n")
    assert not {topic, marked_up} & {*train, *held_out}
    assert sorted(train + held_out) == sorted(own), "every other paragraph is on exactly one side"
    assert len(held_out) == 100, "one in a hundred: two blocks of fifty of the two hundred"
    assert texts.held_out["pydoc_data.topics"] == few_topics


def test_every_block_ends_with_the_end_of_text_piece(recipe: ModuleType) -> None:
    bpe = recipe.train_tokenizer(["owl owl owl"], 300)
    ids = recipe.windows(bpe, ["owl", "owl owl", "owl"], context=2).flatten().tolist()
    owl, spaced = bpe.encode("owl").ids, bpe.encode(" owl").ids
    assert ids == [*owl, 0, *owl, *spaced, 0, *owl, 0][: len(ids)]
    assert ids.count(0) >= 2


def test_the_rate_warms_up_stays_and_falls_but_never_to_zero(recipe: ModuleType) -> None:
    assert recipe.rate_factor(0, 0.0) == pytest.approx(0.01)
    assert recipe.rate_factor(99, 0.1) == recipe.rate_factor(500, 0.6) == 1.0
    assert recipe.rate_factor(900, 0.8) == pytest.approx(0.5)
    assert recipe.rate_factor(999, 0.999) == pytest.approx(0.02)


def test_every_pass_sees_every_window_at_most_once_in_a_new_order(recipe: ModuleType) -> None:
    ids_WT = torch.arange(20).reshape(10, 2)
    passes = recipe.batches(ids_WT, recipe.Recipe(batch=4))
    first, second = ([window for _ in range(2) for window in next(passes).tolist()] for _ in range(2))
    assert len({tuple(window) for window in first}) == len({tuple(window) for window in second}) == 8
    assert first != second


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--text", "missing.txt"], "no such file: missing.txt"),
        (["--heads", "3"], "--heads must divide --width"),
        (["--minutes", "0"], "must be above 0"),
        (["--epochs", "1", "--minutes", "1"], "not allowed with"),
        (["--vocabulary", "100"], "at least 257"),
    ],
)
def test_a_wrong_argument_ends_in_one_message(
    recipe: ModuleType, text: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        recipe.main(["--text", str(text), "--out", "unused", *arguments])
    assert complaint in capsys.readouterr().err


def test_a_text_shorter_than_a_batch_is_refused(recipe: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("Too short to learn from.", encoding="utf-8")
    with pytest.raises(SystemExit, match="0 windows of 512 tokens, but one batch takes 16"):
        recipe.main(["--text", str(path), "--out", str(tmp_path / "base")])
    assert not (tmp_path / "base").exists()
