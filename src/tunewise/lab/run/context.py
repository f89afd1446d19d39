"""Context of every stage of a run: specification, data, memory budget and notes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batch, Batching, Example, read_examples
from tunewise.lab.data.splits import redraw
from tunewise.lab.evaluate.score import score
from tunewise.lab.models.fusing import fuse
from tunewise.lab.models.load import Base, inner_model, load_base, padding_id
from tunewise.lab.models.packing import fit_attention
from tunewise.lab.placement import Placement
from tunewise.lab.train.memory import MemoryBudget
from tunewise.lab.train.meters import MemoryMeter
from tunewise.lab.train.state import Training
from tunewise.lab.weights.narrow import keeps_weights
from tunewise.lab.weights.precision import store_frozen_weights
from tunewise.lab.weights.quantized import quantize
from tunewise.records import DataSummary
from tunewise.records.events import Listener
from tunewise.spec import RunSpec


@dataclass(frozen=True)
class ReadyModel:
    """An fp32 model on its device, with suitable kernels, and how rows become batches for it."""

    model: torch.nn.Module
    padding: int  # id that fills padded batches
    max_packed_length: int  # longest example that is packed, in tokens; 0: all are padded
    budget: MemoryBudget
    placement: Placement

    def batches(self, examples: Sequence[Example], rows: Sequence[int]) -> list[Batch]:
        """The given rows, each once, in batches that fit the current memory budget; this process's share of them."""
        return list(self._batching().batches(examples, rows))

    def score(self, examples: Sequence[Example], compute: Compute) -> list[dict[str, Any]]:
        """Rows of records.SCORES_SCHEMA, in smaller batches if memory is short."""
        return self.budget.within(lambda: score(self.model, examples, self._batching(), compute), examples)

    def _batching(self) -> Batching:
        return Batching(self.budget.max_tokens, self.padding, self.max_packed_length, self.placement)


@dataclass(frozen=True)
class RunContext:
    """Context of one run in progress. `training`, `budget` and `meter` change; everything else is constant."""

    spec: RunSpec
    folder: Path  # what this process writes
    weights: Path  # the saved model
    data_folder: Path
    data: DataSummary
    tokenizer: PreTrainedTokenizerBase
    listener: Listener
    budget: MemoryBudget
    meter: MemoryMeter
    training: Training
    placement: Placement

    @property
    def compute(self) -> Compute:
        """Device and precision in which the run trains, and scores during training."""
        return Compute(self.spec.device, self.spec.precision, self.placement)

    def examples(self, split: str) -> list[Example]:
        """Prepared rows of a split; with `resample`, train and valid are the draw of the run's seed."""
        if not self.spec.resample or split not in ("train", "valid"):
            return self._declared(split)
        return self._drawn[split]

    @cached_property
    def _drawn(self) -> dict[str, list[Example]]:
        train, valid = redraw(self._declared("train"), self._declared("valid"), self.spec.task, self.spec.seed)
        return {"train": train, "valid": valid}

    def _declared(self, split: str) -> list[Example]:
        return read_examples(self.data_folder / f"{split}.parquet")

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training: those of the declared training set, equal for every draw."""
        return self.spec.train.num_steps(self.data.split("train").rows)

    def load_base(self) -> Base:
        """A fresh base in fp32, or stored in fewer bits; new weights come from the current random state."""
        spec = self.spec
        narrow = spec.precision == "bf16" and keeps_weights(spec.method)
        base = load_base(spec.model, spec.task, self.data.labels, self.tokenizer, spec.trust_remote_code, narrow)
        if spec.attention is not None:
            base.model.set_attn_implementation(spec.attention)
        if spec.method.quantized:
            quantize(base.model, base.head_modules, spec.method.quantized, spec.device)
        return base

    def as_scored(self, ready: ReadyModel) -> ReadyModel:
        """A reloaded model as it is scored; with `scoring: stored`, frozen linear weights as in training."""
        if self.spec.scoring == "stored" and keeps_weights(self.spec.method):
            store_frozen_weights(ready.model, self.spec.precision)
        return ready

    def ready(self, model: torch.nn.Module) -> ReadyModel:
        """The fp32 model on its device, with suitable kernels and batches."""
        spec = self.spec
        fuse(model)
        max_packed_length = fit_attention(model.to(spec.device), spec.attention, spec.task)
        padding = padding_id(self.tokenizer, inner_model(model).get_input_embeddings().weight.shape[0])
        return ReadyModel(model, padding, max_packed_length, self.budget, self.placement)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Count the time and the memory of the block as those of scoring."""
        start = time.perf_counter()
        with self.meter.phase("evaluate"):
            yield
        self.training.evaluate_seconds += time.perf_counter() - start
