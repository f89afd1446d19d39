"""What the product asks of every task. A new one is tested here once it stands in TASKS; it needs one line in ROWS."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import cross_entropy

from lab_fixtures import without_dropout
from tunewise.desk.metrics.metrics import METRICS, compute, metrics_of, primary_metric
from tunewise.desk.metrics.scores import read_scores
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, Example, make_batch
from tunewise.lab.data.classify import number_labels
from tunewise.lab.data.examples import choose_format, infer_task, prompt_length
from tunewise.lab.data.rows import Cells, EncodedRow, Row
from tunewise.lab.data.tokens import TextTokenizer
from tunewise.lab.evaluate.score import score, summarise
from tunewise.lab.models.load import load_base
from tunewise.lab.train.loss import add_gradient, example_losses
from tunewise.records import SCORES_SCHEMA
from tunewise.records.selection import takes_over
from tunewise.spec import TASKS, DataSpec, Task
from tunewise.spec.quantities import DEFAULT_MARGINS

# Rows of a source as a user writes them, of unequal length: a mean of means would show.
ROWS: dict[Task, tuple[dict[str, str], ...]] = {
    "sft": (
        {"prompt": "w4 w5", "completion": "w6 w7 w8"},
        {"prompt": "w9 w10 w11 w12", "completion": "w13"},
        {"prompt": "w14", "completion": "w15 w16 w17 w18 w19 w20"},
    ),
    "lm": ({"text": "w4 w5 w6"}, {"text": "w7 w8 w9 w10 w11 w12 w13"}, {"text": "w14 w15"}),
    "classify": (
        {"text": "w4 w5 w6", "label": "one"},
        {"text": "w7 w8 w9 w10 w11", "label": "two"},
        {"text": "w12", "label": "one"},
    ),
}
MODELS = {True: "bert", False: "llama"}  # for tasks with classes, and others
FP32 = Compute("cpu", "fp32")
on_every_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture
def encode(tokenizer: Any) -> Callable[[Task], tuple[list[EncodedRow], tuple[str, ...]]]:
    """The rows of a task as tokens, by its own format, and the names of its classes."""

    def encoded(task: Task) -> tuple[list[EncodedRow], tuple[str, ...]]:
        data = DataSpec(train="train.jsonl")
        form = choose_format(task, ROWS[task][0], data, TextTokenizer.of(tokenizer), 64)
        rows = []
        for number, cells in enumerate(ROWS[task], start=1):
            text = form.render(Cells(cells, f"train.jsonl, line {number}", {}))
            assert text is not None, "there is something to train on"
            rows.append(Row(f"train:{number}", f"unit {number}", f"{number}", text))
        examples = form.encode(rows)
        if not TASKS[task].has_classes:
            return examples, ()
        labels, numbered = number_labels({"train": examples})
        return numbered["train"], labels

    return encoded


@pytest.fixture
def examples_and_model(
    encode: Callable[[Task], tuple[list[EncodedRow], tuple[str, ...]]],
    model_folder: Callable[[str], Path],
    tokenizer: Any,
) -> Callable[[Task], tuple[list[Example], torch.nn.Module]]:
    """What a run has of a task: its examples and the untouched base."""

    def make(task: Task) -> tuple[list[Example], torch.nn.Module]:
        rows, labels = encode(task)
        torch.manual_seed(0)
        base = load_base(str(model_folder(MODELS[TASKS[task].has_classes])), task, labels, tokenizer, False)
        return [example_of(row) for row in rows], without_dropout(base.model)

    return make


def example_of(row: EncodedRow) -> Example:
    content = {name: getattr(row, name) for name in Example.__dataclass_fields__}
    return Example(**{**content, "input_ids": [*row.input_ids], "supervised": [bool(mark) for mark in row.supervised]})


# --- its row in the table


def test_every_task_is_tried() -> None:
    assert {*ROWS} == {*TASKS} == {*get_args(Task)}


@on_every_task
def test_its_metrics_exist_and_a_verdict_may_be_about_the_first(task: Task) -> None:
    row = TASKS[task]
    assert {*row.reported, *row.judged} <= {*METRICS}
    assert len(set(row.reported)) == len(row.reported)
    assert row.selection_metric == row.reported[0] == primary_metric(task)
    assert row.selection_metric in row.judged
    assert row.selection_metric in DEFAULT_MARGINS, "or every study would have to name a margin"
    assert metrics_of(task)[: len(row.reported)] == row.reported
    assert row.target in ("row", "supervised token")
    assert row.has_general_text != row.has_classes


# --- its format


@on_every_task
def test_its_columns_name_it(task: Task) -> None:
    assert infer_task(ROWS[task][0]) == task


@on_every_task
def test_its_format_reads_a_row(task: Task, encode: Callable[[Task], tuple[list[EncodedRow], tuple[str, ...]]]) -> None:
    examples, labels = encode(task)
    assert len(examples) == len(ROWS[task]), "short rows are one example each"
    assert bool(labels) == TASKS[task].has_classes
    for example in examples:
        assert len(example.input_ids) == len(example.supervised) > 0
        assert example.prompt
        assert example.reference
        assert (example.label >= 0) == TASKS[task].has_classes
        assert any(example.supervised) != TASKS[task].has_classes, "tokens or the label, never both"
        assert not example.supervised[0], "nothing stands before the first token that could predict it"
        marks = [bool(mark) for mark in example.supervised]
        assert 0 < prompt_length(task, marks) <= len(example.input_ids)
        assert example_of(example).num_targets == (1 if TASKS[task].has_classes else sum(marks))


# --- its loss


@on_every_task
def test_its_loss_is_a_sum_over_the_targets_of_each_example(
    task: Task, examples_and_model: Callable[[Task], tuple[list[Example], torch.nn.Module]]
) -> None:
    examples, model = examples_and_model(task)
    model.eval()
    together = example_losses(model, make_batch(examples, range(len(examples)), padding=0))
    expected = torch.tensor([alone(model, example) for example in examples])
    torch.testing.assert_close(together.nll_B.detach(), expected, rtol=1e-5, atol=1e-6)
    assert (together.class_log_probabilities_BC is not None) == TASKS[task].has_classes


@torch.no_grad()
def alone(model: torch.nn.Module, example: Example) -> float:
    """The loss of one example, with nothing of the package."""
    ids = torch.tensor([example.input_ids])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    if example.label >= 0:
        return float(cross_entropy(logits, torch.tensor(example.label)))
    places = torch.tensor([place for place, is_target in enumerate(example.supervised) if is_target])
    return float(cross_entropy(logits[places - 1], ids[0, places], reduction="sum"))


@on_every_task
def test_its_gradient_does_not_depend_on_the_cut(
    task: Task, examples_and_model: Callable[[Task], tuple[list[Example], torch.nn.Module]]
) -> None:
    examples, model = examples_and_model(task)
    num_targets = sum(example.num_targets for example in examples)
    found = []
    for cut in ([range(len(examples))], [[row] for row in range(len(examples))]):
        model.zero_grad()
        loss = sum(float(add_gradient(model, make_batch(examples, rows, 0), num_targets, FP32)) for rows in cut)
        found.append((loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}))
    (whole, gradients), (in_parts, others) = found
    assert in_parts == pytest.approx(whole, rel=1e-5)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-6)


# --- its scores


@on_every_task
def test_every_metric_that_it_reports_comes_out_of_its_scores(
    task: Task, examples_and_model: Callable[[Task], tuple[list[Example], torch.nn.Module]], tmp_path: Path
) -> None:
    examples, model = examples_and_model(task)
    rows = score(model, examples, Batching(max_tokens=64, padding=0), FP32)
    table = pa.Table.from_pylist([{"split": "test", **row} for row in rows], schema=SCORES_SCHEMA)
    pq.write_table(table, tmp_path / "scores.parquet")
    scores = read_scores(tmp_path / "scores.parquet", "test")
    values = {name: compute(name, scores) for name in TASKS[task].reported}
    assert all(np.isfinite(value) for value in values.values()), values
    assert values["nll"] == pytest.approx(sum(row["nll"] for row in rows) / sum(e.num_targets for e in examples))


@on_every_task
def test_a_checkpoint_is_selected_by_its_selection_metric(
    task: Task, examples_and_model: Callable[[Task], tuple[list[Example], torch.nn.Module]]
) -> None:
    examples, model = examples_and_model(task)
    rows = score(model, examples, Batching(max_tokens=64, padding=0), FP32)
    assert getattr(summarise(rows, 1), TASKS[task].selection_metric) is not None
    worse = summarise([altered(row, is_good=False) for row in rows], 0)
    better = summarise([altered(row, is_good=True) for row in rows], 1)
    metric = METRICS[TASKS[task].selection_metric]
    rises = getattr(better, metric.name) > getattr(worse, metric.name)
    assert rises == metric.higher_is_better
    assert better.selection_loss < worse.selection_loss
    assert takes_over([worse, better], worse)
    assert not takes_over([better, worse.replace(step=2)], better)


def altered(row: Mapping[str, Any], *, is_good: bool) -> dict[str, Any]:
    """The row of a model that knows this example, or does not."""
    other = row["label"] if is_good else row["label"] + 1
    return {**row, "nll": 0.1 if is_good else 5.0, "prediction": other if row["label"] >= 0 else -1}
