"""The same adapted model in several forms (adapter, merged, stored), scored on the same rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tunewise.adapter.records import Agreement
from tunewise.errors import ModelError, clause
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, Example, cut, make_batch
from tunewise.lab.evaluate.score import score, summarise

MAX_TOKENS = 2048  # per batch, padding included
LOGIT_TOKENS = 1024  # of the rows whose logits are compared: V numbers each


class Forms:
    """Scores of every form; the others are compared with the first one measured."""

    def __init__(self, examples: Sequence[Example], padding: int, has_answers: bool) -> None:
        self.examples, self.padding, self.has_answers = examples, padding, has_answers
        self.found: list[Agreement] = []
        self._reference: list[torch.Tensor] = []

    def measure(self, form: str, model: torch.nn.Module) -> Agreement:
        """One form in fp32: its loss on all rows, and the largest logit difference on the first ones."""
        self._require_known_ids(model)
        try:
            logits = list(self._logits(model))
        except torch.OutOfMemoryError:
            raise
        except (IndexError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"the model cannot read the rows as '{form}': {clause(error)[:300]}. Check that rows, tokenizer "
                "and the model's context length fit together. Try --set data.max_length=64."
            ) from error
        if not all(bool(torch.isfinite(of_rows).all()) for of_rows in logits):
            raise ModelError(
                f"the model computes NaN or infinite logits as '{form}'. Its weights, or the adapter's, are too "
                "large or damaged. Train again, or use an earlier checkpoint."
            )
        self._reference = self._reference or logits
        pairs = zip(logits, self._reference, strict=True)
        summary = None
        if self.has_answers:
            summary = summarise(
                score(model, self.examples, Batching(MAX_TOKENS, self.padding), Compute("cpu", "fp32")), step=0
            )
        agreement = Agreement(
            form=form,
            nll=summary.nll if summary else None,
            accuracy=summary.accuracy if summary else None,
            max_logit_difference=max(float((one - other).abs().max()) for one, other in pairs),
        )
        self.found.append(agreement)
        return agreement

    def _require_known_ids(self, model: Any) -> None:
        size = model.get_input_embeddings().weight.shape[0]
        if (highest := max(max(example.input_ids) for example in self.examples)) >= size:
            raise ModelError(
                f"the tokenizer gives the id {highest}, but the base has {size} token embeddings. Use "
                "the base's tokenizer, or the base with the embeddings that the adapter was trained on."
            )

    @torch.no_grad()
    def _logits(self, model: torch.nn.Module) -> Iterator[torch.Tensor]:
        for rows in cut(self.examples, self._first_rows(), MAX_TOKENS):
            batch = make_batch(self.examples, rows, self.padding)
            logits = model(**batch.inputs).logits.float()
            yield logits if batch.classifies else logits[batch.attention_mask_BT.bool()]

    def _first_rows(self) -> list[int]:
        rows: list[int] = []
        tokens = 0
        for row, example in enumerate(self.examples):
            if rows and tokens + len(example.input_ids) > LOGIT_TOKENS:
                break
            rows.append(row)
            tokens += len(example.input_ids)
        return rows
