"""The optimizer steps of a full fine-tuning run again in float64, every formula written out, no optimizer class.

python tests/referee/optimizer_steps.py RUN BASE TRAIN.parquet

RUN is a run's folder whose steps each used all rows of TRAIN (`input_ids`, `supervised`): record.json says how it was
trained, weights/ is what came of it. Loss: sum of NLL / number of supervised tokens of the step. Gradient: scaled to
the clipping norm where it is longer. Update: AdamW (Loshchilov & Hutter 2019), decay on matrices only.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM


def step_loss(model: torch.nn.Module, rows: list[dict[str, Any]]) -> torch.Tensor:
    """Nats per supervised token; every example alone."""
    nll = torch.zeros((), dtype=torch.float64)
    for row in rows:
        log_probabilities = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        targets = [(place - 1, row["input_ids"][place]) for place, used in enumerate(row["supervised"]) if used]
        nll = nll - sum(log_probabilities[place, token] for place, token in targets)
    return nll / sum(sum(row["supervised"]) for row in rows)


def rate(spec: dict[str, Any], step: int, num_steps: int) -> float:
    """The learning rate of step 1, 2, ...: up in even steps, then down to 1 / (steps that are left)."""
    assert spec["train"]["schedule"] == "linear"
    warm = round(spec["train"]["warmup"] * num_steps)
    factor = step / warm if step <= warm else (num_steps - step + 1) / (num_steps - warm)
    return float(spec["learning_rate"] * factor)


def train(model: torch.nn.Module, rows: list[dict[str, Any]], spec: dict[str, Any], num_steps: int) -> dict[str, Any]:
    """Losses and gradient norms; `model` has moved."""
    settings, (beta1, beta2) = spec["train"], spec["train"]["betas"]
    weights = list(model.parameters())
    mean, square = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    told: dict[str, list[float]] = {"loss": [], "gradient_norm": []}
    for step in range(1, num_steps + 1):
        loss = step_loss(model, rows)
        gradients = torch.autograd.grad(loss, weights)
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        told["loss"].append(float(loss.detach()))
        told["gradient_norm"].append(norm)
        lr = rate(spec, step, num_steps)
        with torch.no_grad():
            for w, g, m, v in zip(weights, gradients, mean, square, strict=True):
                g = g * min(1.0, settings["clip_norm"] / norm)
                m.copy_(beta1 * m + (1 - beta1) * g)
                v.copy_(beta2 * v + (1 - beta2) * g * g)
                direction = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + settings["epsilon"])
                decay = settings["weight_decay"] if w.dim() >= 2 else 0.0
                w.copy_(w - lr * decay * w - lr * direction)
    return told


if __name__ == "__main__":
    run, base, path = sys.argv[1:]
    record = json.loads((Path(run) / "record.json").read_text())
    before, model, tuned = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        for folder in (base, base, Path(run) / "weights")
    )
    told = train(model, pq.read_table(path).to_pylist(), record["spec"], record["num_steps"])
    of_base, ours, theirs = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (before, model, tuned))
    apart = float((ours - theirs).norm())
    told |= {"apart_of_weights": apart / float(ours.norm()), "apart_of_update": apart / float((ours - of_base).norm())}
    print(json.dumps(told))
