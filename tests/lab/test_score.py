"""Laws of the scores: sums that anybody can check, whatever the batches, the order and the padding."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, Example
from tunewise.lab.evaluate.score import score, summarise
from tunewise.lab.models.load import Base, load_base, load_config, load_tokenizer
from tunewise.lab.train.loss import example_losses
from tunewise.records import SCORES_SCHEMA, WRITTEN_COLUMNS

STORIES = Path(__file__).parents[3] / "shared" / "data" / "weights" / "stories260k"
LENGTHS = (9, 4, 30, 5, 23, 12, 7, 3, 17)
MODELS = ("tiny", "llama", "gpt2", "opt", "gemma")
FP32 = Compute("cpu", "fp32")
Load = Callable[..., Base]
Examples = Callable[..., list[Example]]
Row = dict[str, Any]


@pytest.fixture
def load(language_model: Load) -> Load:
    """A language model by name, the bundled and the real one among them."""

    def by_name(name: str) -> Base:
        if name not in ("tiny", "stories"):
            return language_model(name)
        source = "tiny" if name == "tiny" else str(STORIES)
        config = load_config(source, "sft", False)
        return load_base(source, "sft", (), load_tokenizer(source, config, False), False)

    return by_name


def scores(model: torch.nn.Module, examples: list[Example], max_tokens: int = 4096) -> list[Row]:
    return score(model, examples, Batching(max_tokens, 0), FP32)


@torch.no_grad()
def reference_nll(model: torch.nn.Module, example: Example) -> float:
    """One example alone, no batch, no padding, every log-probability in float64."""
    model = model.double().eval()
    ids = torch.tensor([example.input_ids])
    log_probabilities_TV = model(input_ids=ids).logits[0].log_softmax(-1)
    assert log_probabilities_TV.dtype == torch.float64
    return -math.fsum(
        float(log_probabilities_TV[t - 1, token]) for t, token in enumerate(example.input_ids) if example.supervised[t]
    )


@pytest.mark.parametrize(
    "name",
    [
        *MODELS,
        pytest.param(
            "stories", marks=pytest.mark.skipif(not STORIES.is_dir(), reason="the real test models are not here")
        ),
    ],
)
def test_the_nll_equals_that_of_an_independent_loop_in_float64(name: str, load: Load, examples_of: Examples) -> None:
    examples = examples_of(LENGTHS)
    found = scores(load(name).model, examples)
    reference = load(name).model
    expected = [reference_nll(reference, example) for example in examples]
    for row, nll in zip(found, expected, strict=True):
        assert row["nll"] == pytest.approx(nll, rel=1e-5)
    perplexity = math.exp(math.fsum(expected) / sum(sum(e.supervised) for e in examples))
    assert math.exp(summarise(found, 1).nll) == pytest.approx(perplexity, rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("max_tokens", [1, 30, 75, 10_000])
def test_scores_do_not_depend_on_the_size_of_the_batches(
    name: str, max_tokens: int, load: Load, examples_of: Examples
) -> None:
    examples, model = examples_of(LENGTHS), load(name).model
    for one, other in zip(scores(model, examples, max_tokens), scores(model, examples), strict=True):
        assert one["nll"] == pytest.approx(other["nll"], rel=1e-6)
        assert {**one, "nll": 0} == {**other, "nll": 0}


def test_scores_do_not_depend_on_the_order_of_the_rows(load: Load, examples_of: Examples) -> None:
    examples, model = examples_of(LENGTHS), load("llama").model
    expected = {row["example"]: row for row in scores(model, examples, 60)}
    for seed in range(3):
        mixed = random.Random(seed).sample(examples, len(examples))
        found = scores(model, mixed, 60)
        assert [row["example"] for row in found] == [example.example for example in mixed]
        for row in found:
            assert row["nll"] == pytest.approx(expected[row["example"]]["nll"], rel=1e-6)
        assert summarise(found, 1).nll == pytest.approx(summarise(list(expected.values()), 1).nll, rel=1e-6)


def test_scoring_leaves_no_gradient_and_draws_no_random_number(load: Load, examples_of: Examples) -> None:
    model = load("gpt2").model
    state = torch.get_rng_state()
    scores(model, examples_of(LENGTHS))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


# --- what a row holds


def test_a_row_holds_what_every_metric_is_made_of(load: Load, examples_of: Examples) -> None:
    examples = examples_of(LENGTHS)
    for row, example in zip(scores(load("llama").model, examples), examples, strict=True):
        assert {*row, "split", *WRITTEN_COLUMNS} == set(SCORES_SCHEMA.names)
        assert (row["example"], row["unit"]) == (example.example, example.unit)
        assert (row["num_tokens"], row["num_bytes"]) == (sum(example.supervised), example.num_bytes)
        assert (row["label"], row["prediction"], row["class_log_probabilities"]) == (-1, -1, [])
    table = pa.Table.from_pylist(
        [{"split": "test", **row} for row in scores(load("llama").model, examples)], SCORES_SCHEMA
    )
    assert table.num_rows == len(examples)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "roberta"])
def test_a_row_of_a_classification_holds_its_class_probabilities(
    name: str, classifier: Load, examples_of: Examples
) -> None:
    examples = examples_of(LENGTHS, classify=True)
    for row, example in zip(scores(classifier(name).model, examples), examples, strict=True):
        log_probabilities = row["class_log_probabilities"]
        assert math.fsum(map(math.exp, log_probabilities)) == pytest.approx(1, abs=1e-6)
        assert row["nll"] == pytest.approx(-log_probabilities[example.label], rel=1e-6)
        assert row["prediction"] == max(range(3), key=log_probabilities.__getitem__)
        assert (row["num_tokens"], row["num_bytes"], row["label"]) == (1, 0, example.label)


def test_a_text_that_holds_the_padding_piece_is_still_read_to_its_end(classifier: Load, examples_of: Examples) -> None:
    # GPT-2 has no padding token: batches are padded with its end-of-text token, which texts may also contain
    base = classifier("gpt2")
    base.model.config.pad_token_id = 2
    short, long = examples_of([6, 14], classify=True)
    short.input_ids[3] = 2
    together = score(base.model, [short, long], Batching(10_000, 2), FP32)[0]["class_log_probabilities"]
    alone = score(base.model, [short], Batching(10_000, 2), FP32)[0]["class_log_probabilities"]
    assert together == pytest.approx(alone, abs=1e-6)


# --- sums, never means of means


def row(nll: float, num_tokens: int, label: int = -1, prediction: int = -1) -> Row:
    return {"nll": nll, "num_tokens": num_tokens, "label": label, "prediction": prediction}


def test_the_mean_weighs_tokens_not_examples() -> None:
    evaluation = summarise([row(10.0, 1), row(10.0, 99)], step=7)
    assert evaluation.nll == pytest.approx(0.2)
    assert (evaluation.step, evaluation.accuracy) == (7, None)


def test_accuracy_counts_examples_class_zero_among_them() -> None:
    evaluation = summarise([row(0.5, 1, 0, 0), row(0.5, 1, 1, 0), row(0.5, 1, 0, 1), row(0.5, 1, 2, 2)], step=1)
    assert evaluation.accuracy == 0.5
    assert summarise([row(0.5, 1, 0, 1)], step=1).accuracy == 0.0


def test_no_target_is_lost_between_the_loss_of_training_and_the_scores(load: Load, examples_of: Examples) -> None:
    from tunewise.lab.data.batching import make_batch

    examples, model = examples_of(LENGTHS), load("llama").model
    with torch.no_grad():
        trained_on = example_losses(model.eval(), make_batch(examples, range(len(examples)), 0)).nll_B
    assert [row["nll"] for row in scores(model, examples)] == pytest.approx(trained_on.tolist(), rel=1e-6)
