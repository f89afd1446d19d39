"""Texts that the model of a run writes, and evaluations on the validation set, which may judge them."""

from collections.abc import Sequence
from typing import Any

import torch

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Example
from tunewise.lab.data.examples import prompt_length
from tunewise.lab.evaluate.generate import Generated, generate
from tunewise.lab.evaluate.score import summarise
from tunewise.lab.evaluate.text_scores import COUNTS
from tunewise.lab.run.context import RunContext
from tunewise.records import Evaluation


def answers(run: RunContext, model: torch.nn.Module, examples: Sequence[Example]) -> list[Generated]:
    """Greedy answer to the prompt of every example, in order."""
    spec = run.spec
    prompts = [list(e.input_ids[: prompt_length(spec.task, e.supervised)]) for e in examples]
    return list(generate(model, run.tokenizer, prompts, spec.samples.max_new_tokens, run.budget.max_tokens))


def evaluation(run: RunContext, model: torch.nn.Module, rows: Sequence[dict[str, Any]], compute: Compute) -> Evaluation:
    """Evaluation at the current step from the scored `rows` of the validation set.

    With `select_by`, the model also writes an answer to every row, in the precision of `compute`.
    """
    found, metric = summarise(rows, run.training.num_steps), run.spec.select_by
    if metric is None:
        return found
    valid = run.examples("valid")
    count = COUNTS[metric.counted_as](metric)
    with compute.autocast():
        written = run.budget.within(lambda: answers(run, model, valid), valid)
    right = [
        bool(count(one.text, tuple(example.references) or (example.reference,))[0])
        for example, one in zip(valid, written, strict=True)
    ]
    return found.replace(accuracy=sum(right) / len(right), right="".join(str(int(is_right)) for is_right in right))
