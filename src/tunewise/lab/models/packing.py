"""Choice of attention and batches that do not change what a model computes: tested, not assumed."""

import sys

import torch
from transformers import PreTrainedModel

from tunewise.lab.data.batching import Batch, Example, make_batch, pack_batch
from tunewise.lab.models.attention import NAMES, Kernel, register_kernels
from tunewise.lab.models.load import inner_model
from tunewise.lab.private import attention_of
from tunewise.lab.train.loss import class_logits
from tunewise.spec import TASKS, Attention, Task

TOLERANCE = 1e-5  # relative to the largest logit
# errors of models that were not made for our attention, or for packed batches
REFUSALS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def fit_attention(model: torch.nn.Module, attention: Attention | None, task: Task) -> int:
    """Give an fp32 model our attention if that changes nothing; return the longest example that may be packed.

    Two short examples in a batch must have the logits that each has alone under the model's original attention. The
    kernel stays the requested one (`attention`), or is the faster one for each shape (None) if the model can use both.
    0: nothing is packed.
    """
    base = inner_model(model)
    own = attention_of(base.config)
    if own not in ("eager", "sdpa"):
        return 0
    register_kernels()
    was_training = model.training
    probe = _Probe(model.eval(), base, task)
    kernels: tuple[Kernel, ...] = ("eager", "sdpa") if own == "sdpa" else (own,)
    if attention is not None:
        kernels = (attention,)
    padded = [kernel for kernel in kernels if probe.keeps_logits(NAMES[kernel], probe.padded)]
    packed = [kernel for kernel in padded if probe.keeps_logits(NAMES[kernel], probe.packed)]
    if TASKS[task].has_classes and packed and not probe.embeds_long_rows():
        packed = []
    usable = packed or padded
    name = own if not usable else NAMES["fastest"] if len(usable) > 1 else NAMES[usable[0]]
    base.set_attn_implementation(name)
    model.train(was_training)
    return _window(base) if packed else 0


class _Probe:
    """Two short examples, and the logits that each has alone before any change."""

    def __init__(self, model: torch.nn.Module, base: PreTrainedModel, task: Task) -> None:
        self.model, self.base = model, base
        label = 0 if TASKS[task].has_classes else -1
        middle = base.get_input_embeddings().num_embeddings // 2  # no special tokens there
        ids = [list(range(middle, middle + length)) for length in (7, 4)]
        examples = [Example("", "", one, [False] * len(one), 0, label, "", "") for one in ids]
        padding = base.config.get_text_config().pad_token_id or 0
        self.lengths = [len(one) for one in ids]
        self.padded, self.packed = make_batch(examples, [0, 1], padding), pack_batch(examples, [0, 1])
        self.alone = torch.cat([self._logits(make_batch(examples, [row], padding)) for row in (0, 1)])

    def keeps_logits(self, name: str, batch: Batch) -> bool:
        """True if the model has the same logits for both in this batch with the attention of this name."""
        try:
            self.base.set_attn_implementation(name)
            apart = self._logits(batch) - self.alone
        except REFUSALS:
            return False
        return bool(apart.abs().max() <= TOLERANCE * self.alone.abs().max())

    @torch.no_grad()
    def embeds_long_rows(self) -> bool:
        """True if an encoder has embeddings for a packed row that is longer than its longest text.

        Some look embeddings up by position in the row, which are limited in number. The layers do not use positions.
        """
        length = getattr(self.base.config.get_text_config(), "max_position_embeddings", 0) + 1
        zeros = torch.zeros(1, length, dtype=torch.long, device=self.base.device)
        try:
            self.base.base_model.embeddings(input_ids=zeros, position_ids=zeros)
        except REFUSALS:
            return False
        return True

    @torch.no_grad()
    def _logits(self, batch: Batch) -> torch.Tensor:
        """(rows, C) for a classification; (tokens, V) for a language model, without padding."""
        batch = batch.to(self.base.device.type)
        if batch.classifies:
            return class_logits(self.model, batch)
        logits: torch.Tensor = self.model(**batch.inputs).logits
        logits = logits[:, -batch.input_ids_BT.shape[1] :]  # prompt tuning puts virtual tokens in front
        return logits[batch.attention_mask_BT.bool()]


def _window(base: PreTrainedModel) -> int:
    """Length up to which every token of a text sees all earlier ones, as packed rows assume."""
    config = base.config.get_text_config()
    bounds = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((bound for bound in bounds if bound), default=sys.maxsize)
