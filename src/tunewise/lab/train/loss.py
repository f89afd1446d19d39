"""One formula for the loss of every task: NLL summed per example. Training and scoring both use it.

Shapes: B examples, T tokens, D hidden size, V vocabulary, C classes, N targets, n of them at once.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batch
from tunewise.lab.models.load import inner_model
from tunewise.lab.train.cross_entropy import target_nll

# Logits in memory at once: 256 MiB in fp32, and a few tensors of this size for their gradient. These are 523 targets
# with a vocabulary of 128 k, 1,335 with GPT-2's.
MAX_LOGITS = 2**26


@dataclass(frozen=True)
class Losses:
    """NLL in nats, fp32."""

    nll_B: torch.Tensor
    class_log_probabilities_BC: torch.Tensor | None  # None: a language model


def example_losses(model: torch.nn.Module, batch: Batch) -> Losses:
    """NLL of every example, summed over its targets."""
    if batch.classifies:
        logits_BC = class_logits(model, batch).float()
        log_probabilities_BC = F.log_softmax(logits_BC, dim=-1)
        return Losses(F.nll_loss(log_probabilities_BC, batch.targets_N, reduction="none"), log_probabilities_BC)
    forward = _Forward(model, batch)
    nll_N = torch.cat([forward.nll(part) for part in forward.parts])
    return Losses(torch.zeros(len(batch.rows), device=nll_N.device).index_add(0, batch.example_of_N, nll_N), None)


def class_logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """(B, C) logits of a classification.

    The head of a packed batch gets the examples' first tokens as rows of one token: encoders' heads read only the first
    token of a row. Which do is tested, not assumed (`packing.fit_attention`). Raises AttributeError for a model whose
    layers cannot be separated from its head.
    """
    if batch.packed_12BL is None:
        logits_BC: torch.Tensor = model(**batch.inputs).logits
        return logits_BC

    def keep_first_tokens(layers: torch.nn.Module, inputs: Any, output: Any) -> Any:
        first_BD = output.last_hidden_state.squeeze(0).index_select(0, batch.places_N)
        return type(output)(last_hidden_state=first_BD[:, None])

    encoder = inner_model(model).base_model
    layers = encoder.encoder if hasattr(encoder, "encoder") else encoder.transformer  # DistilBERT's name for it
    # RoBERTa and similar models count positions from the one after their padding's
    first_position = getattr(encoder.embeddings, "padding_idx", -1) + 1
    assert batch.position_ids_BT is not None, "packed batches have positions"
    hook = layers.register_forward_hook(keep_first_tokens)
    try:
        logits_BC = model(**{**batch.inputs, "position_ids": batch.position_ids_BT + first_position}).logits
    finally:
        hook.remove()
    return logits_BC


def add_gradient(model: torch.nn.Module, batch: Batch, num_targets: int, compute: Compute) -> torch.Tensor:
    """Add the gradient of (summed NLL of the batch) / `num_targets` to the parameters; returns that loss.

    Logits are backpropagated to the hidden states part by part, each released before the next is computed; then the
    hidden states are backpropagated through the model. Nothing is computed twice or read back from the device.
    """
    if batch.classifies:
        with compute.autocast():
            loss = example_losses(model, batch).nll_B.sum() / num_targets
        loss.backward()
        return loss.detach()
    with compute.autocast():
        forward = _Forward(model, batch, in_two_stages=True)
    loss = torch.zeros((), device=batch.targets_N.device)
    with compute.placement.first_stage(forward.base):
        for part in forward.parts:
            with compute.autocast():
                part_loss = forward.nll(part).sum() / num_targets
            part_loss.backward()
            loss += part_loss.detach()
    forward.end()
    return loss


class _Forward:
    """A forward pass that computes logits only of supervised places, a limited number at a time.

    The model's own forward computes the first of them, with the input of its head reduced. For the others the forward
    runs again without the decoder, so that changes of logits (caps, scales) remain the model's own.
    """

    # of the hook on the head, while the constructor runs the model
    hidden_ND: torch.Tensor
    head_input_ND: torch.Tensor  # the same, or a copy that takes the gradient of the parts
    parts: list[slice]  # of the targets, whose logits are in memory at once

    def __init__(self, model: torch.nn.Module, batch: Batch, in_two_stages: bool = False) -> None:
        self.base = inner_model(model)
        self.batch, self.in_two_stages = batch, in_two_stages
        self.decoder = self.base.get_decoder()
        self.output_kind: type[ModelOutput] | None = None  # None: the decoder cannot be skipped
        hooks = [
            self.decoder.register_forward_hook(self._note_output),
            self.base.get_output_embeddings().register_forward_pre_hook(self._keep_first),
        ]
        try:
            self.first_1nV: torch.Tensor | None = model(**batch.inputs, use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()

    def nll(self, part: slice) -> torch.Tensor:
        """(n,) NLL of one of `parts`; request each once, in order."""
        logits_1nV = self._others(part) if self.first_1nV is None else self.first_1nV
        self.first_1nV = None  # or it would stay in memory while the others are computed
        return target_nll(logits_1nV.squeeze(0), self.batch.targets_N[part])

    def end(self) -> None:
        """Pass the gradient of the hidden states back to the model."""
        if self.hidden_ND.requires_grad:
            self.hidden_ND.backward(self.head_input_ND.grad)

    def _note_output(self, decoder: torch.nn.Module, inputs: Any, output: Any) -> None:
        self.output_kind = type(output) if isinstance(output, ModelOutput) else None

    def _keep_first(self, head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        # the last columns, because prompt tuning puts virtual tokens in front
        hidden_BTD = inputs[0][:, -self.batch.input_ids_BT.shape[1] :]
        self.hidden_ND = self.head_input_ND = hidden_BTD.flatten(0, 1).index_select(0, self.batch.places_N)
        if self.in_two_stages:
            self.head_input_ND = self.hidden_ND.detach().requires_grad_(self.hidden_ND.requires_grad)
        num_targets = max(self.batch.num_targets, 1)
        size = max(MAX_LOGITS // self.base.config.get_text_config().vocab_size, 1) if self.output_kind else num_targets
        self.parts = [slice(start, start + size) for start in range(0, num_targets, size)]
        return self.head_input_ND[self.parts[0]][None], *inputs[1:]

    def _others(self, part: slice) -> torch.Tensor:
        assert self.output_kind is not None, "there is one part if the decoder cannot be skipped"
        output = self.output_kind(last_hidden_state=self.head_input_ND[part][None])
        forward = vars(self.decoder).get("forward")
        self.decoder.forward = lambda *args, **options: output
        try:
            logits_1nV: torch.Tensor = self.base(input_ids=self.batch.targets_N[part][None], use_cache=False).logits
        finally:
            del self.decoder.forward
            if forward is not None:
                self.decoder.forward = forward
        return logits_1nV
