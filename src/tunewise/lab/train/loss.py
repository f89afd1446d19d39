"""One formula for the loss of every task: NLL summed per example. Training and scoring both use it.

Shapes: B examples, T tokens, K columns with logits, V vocabulary, C classes, N targets.
"""

import inspect
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tunewise.lab.data.batching import Batch


@dataclass(frozen=True)
class Losses:
    """NLL in nats, fp32."""

    nll_B: torch.Tensor
    class_log_probabilities_BC: torch.Tensor | None  # None: a language model


def example_losses(model: torch.nn.Module, batch: Batch) -> Losses:
    """NLL of every example, summed over its targets."""
    if batch.columns_K is None:
        logits_BC = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits.float()
        log_probabilities_BC = F.log_softmax(logits_BC, dim=-1)
        return Losses(F.nll_loss(log_probabilities_BC, batch.targets_N, reduction="none"), log_probabilities_BC)
    nll_N = F.cross_entropy(_supervised_logits(model, batch), batch.targets_N, reduction="none")
    nll_B = torch.zeros(len(batch.rows), device=nll_N.device).index_add(0, batch.example_of_N, nll_N)
    return Losses(nll_B, None)


def _supervised_logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Logits (N, V) in fp32, of the supervised positions only: the head is a large share of a small model."""
    assert batch.columns_K is not None, "a language model's batch"
    inputs = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT, "use_cache": False}
    # counted from the end, because prompt tuning puts virtual tokens in front
    columns_K = batch.columns_K - batch.input_ids_BT.shape[1]
    if _selects_logits(model):
        logits_BKV = model(**inputs, logits_to_keep=columns_K).logits
    else:
        logits_BKV = model(**inputs).logits[:, columns_K]
    return logits_BKV.flatten(0, 1)[batch.places_N].float()


def _selects_logits(model: torch.nn.Module) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # a peft wrapper hides the signature
    return "logits_to_keep" in inspect.signature(base.forward).parameters
