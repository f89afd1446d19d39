"""Laws 20 and 26: what an evaluation computes, and what it keeps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import (
    LABELS,
    PADDING,
    classifier,
    labelled_examples,
    language_model,
    save_small_model,
    text_windows,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AutoTokenizer

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, Example
from tunewise.lab.evaluate.score import score, summarise
from tunewise.lab.methods import build_method
from tunewise.lab.models.load import BUNDLED, Base
from tunewise.spec import LoraMethod

Rows = list[dict[str, Any]]
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 20


def scores(model: torch.nn.Module, examples: list[Example], max_tokens: int = 256) -> Rows:
    return score(model, examples, Batching(max_tokens, PADDING), Compute("cpu", "fp32"))


def windows(count: int, length: int = 16) -> list[Example]:
    ids = AutoTokenizer.from_pretrained(BUNDLED["tiny"])(TEXT).input_ids
    return text_windows(ids, length)[:1] * count


# --- law 20


@pytest.mark.parametrize("task", ["lm", "classify"])
def test_law_20_dropout_is_off_the_adapter_is_on_and_switched_off_it_is_the_base(task: Any, tmp_path: Path) -> None:
    """Law 20: two evaluations of a model that was being trained, with dropout, are identical; they see the adapter;
    and without the adapter they are those of the base."""
    folder = save_small_model("gpt2", tmp_path)
    examples = text_windows([4 + i % 60 for i in range(200)], 23) if task == "lm" else labelled_examples([5, 9, 14])

    def load() -> Base:
        return language_model(str(folder)) if task == "lm" else classifier(folder, seed=1)

    base = scores(load().model, examples)
    model: Any = build_method(LoraMethod(dropout=0.3), task, 1).prepare(load())
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert {0.1, 0.3} <= rates, "GPT-2's own dropout and the adapter's"
    with torch.no_grad():  # stands for training: B is no longer 0
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    model.train()
    first = scores(model, examples)
    model.train()
    assert scores(model, examples) == first
    assert all(row["nll"] != of_base["nll"] for row, of_base in zip(first, base, strict=True))
    with model.disable_adapter():
        assert scores(model, examples) == base


# --- law 26


class LiveTensors(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, of those that operations made while this is on."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: Any = WeakTensorKeyDictionary()
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.alive[tensor] = None
        storages = [tensor.untyped_storage() for tensor in self.alive]
        self.peak_bytes = max(self.peak_bytes, sum({s.data_ptr(): s.nbytes() for s in storages}.values()))
        return result


def peak_bytes(model: torch.nn.Module, examples: list[Example]) -> tuple[int, Rows]:
    with LiveTensors() as tensors:
        rows = scores(model, examples)
    return tensors.peak_bytes, rows


@pytest.mark.parametrize("task", ["lm", "classify"])
def test_law_26_evaluation_memory_does_not_grow_with_the_number_of_examples(task: str, tmp_path: Path) -> None:
    """Law 26: an evaluation of ten times the examples holds no more tensors at once; what it keeps of an example is a
    few numbers, however long the example is."""
    if task == "lm":
        model, few, many = language_model("tiny").model, windows(32), windows(320)
        logits_bytes = 4 * 4096 * 15  # of one window: fp32, vocabulary of 4,096, 15 predicted tokens
    else:
        model = classifier(save_small_model("bert", tmp_path), seed=1).model
        few, many = labelled_examples([16] * 32), labelled_examples([16] * 320)
        logits_bytes = 4 * len(LABELS)
    peak_of_few, rows_of_few = peak_bytes(model, few)
    peak_of_many, rows = peak_bytes(model, many)
    assert peak_of_few >= 16 * logits_bytes, "a batch of 256 tokens is 16 windows: the count sees their logits"
    assert peak_of_many == peak_of_few
    assert summarise(rows, 1).nll == pytest.approx(summarise(rows_of_few, 1).nll, rel=0.1)
    for row in rows:
        log_probabilities = row.pop("class_log_probabilities")
        assert len(log_probabilities) == (0 if task == "lm" else len(LABELS))
        assert {type(number) for number in log_probabilities} <= {float}
        assert {type(value) for value in row.values()} == {str, float, int}
