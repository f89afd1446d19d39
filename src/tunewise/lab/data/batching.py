"""Prepared examples, and the batches cut from them.

Shapes: B examples of a micro-batch, T tokens of the longest one, N supervised tokens (classify: N = B labels).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """One row of a prepared split (records.EXAMPLES_SCHEMA)."""

    example: str
    unit: str
    input_ids: list[int]
    supervised: list[bool]
    num_bytes: int
    label: int
    prompt: str
    reference: str

    @property
    def num_targets(self) -> int:
        """What its loss is a sum over: supervised tokens, or the one label."""
        return 1 if self.label >= 0 else sum(self.supervised)


def read_examples(path: Path) -> list[Example]:
    """The examples of one prepared split."""
    return [Example(**row) for row in pq.read_table(path).to_pylist()]


@dataclass(frozen=True)
class Batch:
    """Right-padded examples; every index is known before the step, so that the step reads nothing back.

    `places_N` are the places in the flattened B x T whose logits predict a target. Targets are token ids; for a
    classification they are labels, one an example, and the places are the examples themselves.
    """

    rows: tuple[int, ...]
    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    places_N: torch.Tensor
    targets_N: torch.Tensor
    example_of_N: torch.Tensor  # which of the B examples a target belongs to
    num_tokens: int  # padding excluded
    classifies: bool

    @property
    def num_targets(self) -> int:
        """N."""
        return len(self.targets_N)

    @property
    def padding_mask(self) -> torch.Tensor | None:
        """What the model is given, (B, T); None where nothing is padded.

        transformers reads a mask back from the device to leave it out where it is all ones. Left out here, nothing is
        read, and a plan, which has no values to read, takes the same way.
        """
        return self.attention_mask_BT if self.num_tokens < self.attention_mask_BT.numel() else None

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        if device == "cpu":
            return self
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(self).items()}
        return Batch(**moved)


def make_batch(examples: Sequence[Example], rows: Sequence[int], padding: int) -> Batch:
    """The batch of the given rows."""
    chosen = [examples[row] for row in rows]
    width = max(len(e.input_ids) for e in chosen)
    ids = [e.input_ids + [padding] * (width - len(e.input_ids)) for e in chosen]
    mask = [[1] * len(e.input_ids) + [0] * (width - len(e.input_ids)) for e in chosen]
    if chosen[0].label >= 0:
        places = owners = list(range(len(chosen)))
        targets = [e.label for e in chosen]
    else:
        # the logits at position t predict the token at t + 1
        predicted = [(b, t) for b, e in enumerate(chosen) for t, is_target in enumerate(e.supervised) if is_target]
        assert all(t > 0 for _, t in predicted), "the first token has no context to be predicted from"
        places = [b * width + t - 1 for b, t in predicted]
        targets = [ids[b][t] for b, t in predicted]
        owners = [b for b, _ in predicted]
    return Batch(
        rows=tuple(rows),
        input_ids_BT=torch.tensor(ids),
        attention_mask_BT=torch.tensor(mask),
        places_N=torch.tensor(places, dtype=torch.long),
        targets_N=torch.tensor(targets, dtype=torch.long),
        example_of_N=torch.tensor(owners, dtype=torch.long),
        num_tokens=sum(len(e.input_ids) for e in chosen),
        classifies=chosen[0].label >= 0,
    )


def cut(examples: Sequence[Example], rows: Sequence[int], max_tokens: int) -> list[list[int]]:
    """`rows` sorted by length and cut into micro-batches of at most `max_tokens` padded tokens (one row at least)."""
    ordered = sorted(rows, key=lambda row: (-len(examples[row].input_ids), row))
    pieces: list[list[int]] = []
    for row in ordered:
        # sorted by falling length, so the first row of a piece is as wide as the piece
        fits = pieces and len(examples[pieces[-1][0]].input_ids) * (len(pieces[-1]) + 1) <= max_tokens
        if fits:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces


def step_rows(num_rows: int, batch_size: int, num_steps: int, seed: int) -> Iterator[list[int]]:
    """The rows of every optimizer step: a new order each epoch, the same for every arm with this seed."""
    done, epoch = 0, 0
    while done < num_steps:
        order = list(range(num_rows))
        random.Random(f"order {seed} {epoch}").shuffle(order)
        for start in range(0, num_rows, batch_size):
            if done < num_steps:
                yield order[start : start + batch_size]
            done += 1
        epoch += 1
