"""One formula for the loss of every task: NLL summed per example. Training and scoring both use it.

Shapes: B examples, T tokens, D hidden size, V vocabulary, C classes, N targets.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peft import PeftModel

from tunewise.lab.data.batching import Batch


@dataclass(frozen=True)
class Losses:
    """NLL in nats, fp32."""

    nll_B: torch.Tensor
    class_log_probabilities_BC: torch.Tensor | None  # None: a language model


def example_losses(model: torch.nn.Module, batch: Batch) -> Losses:
    """NLL of every example, summed over its targets."""
    if batch.classifies:
        logits_BC = model(**batch.inputs).logits.float()
        log_probabilities_BC = F.log_softmax(logits_BC, dim=-1)
        return Losses(F.nll_loss(log_probabilities_BC, batch.targets_N, reduction="none"), log_probabilities_BC)
    nll_N = F.cross_entropy(_supervised_logits(model, batch), batch.targets_N, reduction="none")
    nll_B = torch.zeros(len(batch.rows), device=nll_N.device).index_add(0, batch.example_of_N, nll_N)
    return Losses(nll_B, None)


def _supervised_logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Logits (N, V) in fp32 of the places with a target only: the head is a large share of a small model.

    The model's own forward runs, so that whatever it does to logits stays; only the input of its head is cut down.
    """
    num_columns = batch.input_ids_BT.shape[1]

    def keep_supervised(head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        # the last columns, because prompt tuning puts virtual tokens in front
        hidden_BTD = inputs[0][:, -num_columns:]
        return hidden_BTD.flatten(0, 1).index_select(0, batch.places_N)[None], *inputs[1:]

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    hook = base.get_output_embeddings().register_forward_pre_hook(keep_supervised)
    try:
        logits_1NV = model(**batch.inputs, use_cache=False).logits
    finally:
        hook.remove()
    return logits_1NV[0].float()
