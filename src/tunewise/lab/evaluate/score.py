"""Scores: per example the sufficient statistics of every metric, streamed so that memory does not grow with rows."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from tunewise.errors import ModelError
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, Example
from tunewise.lab.train.loss import example_losses
from tunewise.records import Evaluation


@torch.no_grad()
def score(
    model: torch.nn.Module, examples: Sequence[Example], batching: Batching, compute: Compute
) -> list[dict[str, Any]]:
    """Rows of records.SCORES_SCHEMA (without `split`), in the order of `examples`; dropout is off."""
    rows: list[dict[str, Any]] = [{}] * len(examples)
    model.eval()
    for batch in batching.batches(examples, range(len(examples))):
        batch = batch.to(compute.device)
        with compute.autocast():
            losses = example_losses(model, batch)
        classes = losses.class_log_probabilities_BC
        for b, row in enumerate(batch.rows):
            example = examples[row]
            rows[row] = {
                "example": example.example,
                "unit": example.unit,
                "nll": float(losses.nll_B[b]),
                "num_tokens": example.num_targets,
                "num_bytes": example.num_bytes,
                "label": example.label,
                "prediction": -1 if classes is None else int(classes[b].argmax()),
                "class_log_probabilities": [] if classes is None else classes[b].tolist(),
            }
    return compute.placement.merged(rows)


def require_finite(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The rows of `score`. Raises ModelError if a loss is not finite, because no metric could be computed."""
    if bad := [row["example"] for row in rows if not math.isfinite(row["nll"])]:
        raise ModelError(
            f"the loss of {len(bad):,} of {len(rows):,} examples is not finite (NaN or infinity), for example that of "
            f"{bad[0]}. Use another checkpoint than '{name}' if the base itself does this; otherwise "
            "use a lower learning rate."
        )
    return rows


def summarise(rows: Sequence[dict[str, Any]], step: int) -> Evaluation:
    """Means over all examples: sums divided by counts, never a mean of means."""
    right = [row["prediction"] == row["label"] for row in rows if row["label"] >= 0]
    return Evaluation(
        step=step,
        nll=sum(row["nll"] for row in rows) / sum(row["num_tokens"] for row in rows),
        accuracy=sum(right) / len(right) if right else None,
        right="".join(str(int(is_right)) for is_right in right) or None,
    )
