"""Prepared examples, and batches of them.

Shapes: B examples of a batch, T tokens of the longest one (packed: one row of all T tokens), N supervised tokens
(classify: N = B labels), L tokens of the longest of packed examples.
"""

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tunewise.lab.models.attention import common_size, pack_places
from tunewise.lab.placement import Placement

READ_TOGETHER = 5_000  # rows of a file


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a prepared split (records.EXAMPLES_SCHEMA)."""

    example: str
    unit: str
    input_ids: Sequence[int]
    supervised: Sequence[bool] | bytes
    num_bytes: int
    label: int
    prompt: str
    reference: str
    references: Sequence[str] = ()  # references for metrics of written text; empty: `reference` alone

    @property
    def num_targets(self) -> int:
        """Number of terms in its loss: supervised tokens, or the one label."""
        return 1 if self.label >= 0 else self.supervised.count(True)


def read_examples(path: Path) -> list[Example]:
    """Examples of one prepared split, their tokens as plain numbers: lists of objects take ten times the memory."""
    found: list[Example] = []
    with pq.ParquetFile(path) as file:
        for part in file.iter_batches(READ_TOGETHER):
            found += map(Example, *map(_values, part.columns))  # columns are in the order of the fields
    return found


def _values(column: pa.Array) -> list[Any]:
    """Values of a column: those of a row of tokens as an array, of a row of marks as bytes."""
    kind = column.type.value_type if pa.types.is_list(column.type) else None
    if kind not in (pa.int32(), pa.bool_()):
        values: list[Any] = column.to_pylist()
        return values
    width = 4 if kind == pa.int32() else 1  # bytes of a number, of a mark
    flat = column.flatten().to_numpy(zero_copy_only=False).tobytes()
    ends = (width * (column.offsets.to_numpy() - column.offsets[0].as_py())).tolist()
    rows = (flat[start:stop] for start, stop in pairwise(ends))
    return [array("i", row) for row in rows] if width > 1 else list(rows)


@dataclass(frozen=True)
class Batch:
    """Examples as the model reads them. Every index is known before the step, so that the step reads nothing back.

    Padded on the right, one row per example; or packed: one row in all, example after example, padded only at its end.
    `places_N` are the places in the flattened B x T whose logits predict a target. Targets are token ids; for a
    classification they are labels, one per example, and the places are the examples' first tokens.
    """

    rows: tuple[int, ...]
    input_ids_BT: torch.Tensor  # packed: B is 1
    attention_mask_BT: torch.Tensor  # 0 on padding
    places_N: torch.Tensor
    targets_N: torch.Tensor
    example_of_N: torch.Tensor  # index of the example that a target belongs to
    num_tokens: int  # padding excluded
    classifies: bool
    position_ids_BT: torch.Tensor | None = None  # packed: of each token within its example
    packed_12BL: torch.Tensor | None = None  # packed: where the examples are (`attention.pack_places`)

    @property
    def num_targets(self) -> int:
        """Number of targets, N."""
        return len(self.targets_N)

    @property
    def inputs(self) -> dict[str, torch.Tensor | None]:
        """Arguments of the model's forward.

        There is no mask if nothing is padded. transformers would read a mask back from the device to drop it if it is
        all ones. Without it nothing is read, and a plan, which has no values, takes the same path.
        """
        if self.packed_12BL is not None:
            positions = {"position_ids": self.position_ids_BT}
            return {"input_ids": self.input_ids_BT, "attention_mask": self.packed_12BL, **positions}
        is_padded = self.num_tokens < self.attention_mask_BT.numel()
        return {"input_ids": self.input_ids_BT, "attention_mask": self.attention_mask_BT if is_padded else None}

    def emptied(self) -> "Batch":
        """The same input of a language model without rows and targets, which adds 0 to every sum."""
        none = {name: getattr(self, name)[:0] for name in ("places_N", "targets_N", "example_of_N")}
        return replace(self, rows=(), num_tokens=0, **none)

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        if device == "cpu":
            return self
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(self).items()}
        return Batch(**moved)


def make_batch(examples: Sequence[Example], rows: Sequence[int], padding: int) -> Batch:
    """Padded batch of the given rows."""
    chosen = [examples[row] for row in rows]
    width = max(len(e.input_ids) for e in chosen)
    ids = [[*e.input_ids, *[padding] * (width - len(e.input_ids))] for e in chosen]
    mask = [[1] * len(e.input_ids) + [0] * (width - len(e.input_ids)) for e in chosen]
    return Batch(
        rows=tuple(rows),
        input_ids_BT=torch.tensor(ids),
        attention_mask_BT=torch.tensor(mask),
        **_targets(chosen, [b * width for b in range(len(chosen))]),
    )


def pack_batch(examples: Sequence[Example], rows: Sequence[int]) -> Batch:
    """Packed batch of the given rows; only for models for which `packing.fit_attention` allows it.

    After the examples the last token is repeated up to a common size. No scored token sees these tokens.
    """
    chosen = [examples[row] for row in rows]
    lengths = [len(e.input_ids) for e in chosen]
    packed_12BL = pack_places(lengths)
    num_filling = min(common_size(sum(lengths)), packed_12BL[0, 0].numel()) - sum(lengths)
    filling = [chosen[-1].input_ids[-1]] * num_filling
    positions = [position for length in lengths for position in range(length)]
    return Batch(
        rows=tuple(rows),
        input_ids_BT=torch.tensor([[token for e in chosen for token in e.input_ids] + filling]),
        attention_mask_BT=torch.tensor([[1] * sum(lengths) + [0] * num_filling]),
        position_ids_BT=torch.tensor([positions + [0] * num_filling]),
        packed_12BL=packed_12BL,
        **_targets(chosen, [sum(lengths[:b]) for b in range(len(chosen))]),
    )


def _targets(chosen: Sequence[Example], starts: Sequence[int]) -> dict[str, Any]:
    """Targets, and their places; an example's first token is at its start in the flattened B x T."""
    if chosen[0].label >= 0:
        places, owners = list(starts), list(range(len(chosen)))
        targets = [e.label for e in chosen]
    else:
        # the logits at position t predict the token at t + 1
        predicted = [(b, t) for b, e in enumerate(chosen) for t, is_target in enumerate(e.supervised) if is_target]
        assert all(t > 0 for _, t in predicted), "the first token has no context that could predict it"
        places = [starts[b] + t - 1 for b, t in predicted]
        targets = [chosen[b].input_ids[t] for b, t in predicted]
        owners = [b for b, _ in predicted]
    return {
        "places_N": torch.tensor(places, dtype=torch.long),
        "targets_N": torch.tensor(targets, dtype=torch.long),
        "example_of_N": torch.tensor(owners, dtype=torch.long),
        "num_tokens": sum(len(e.input_ids) for e in chosen),
        "classifies": chosen[0].label >= 0,
    }


@dataclass(frozen=True)
class Batching:
    """How rows become batches; changes speed and memory, not results."""

    max_tokens: int  # of a batch, padding included
    padding: int  # id that fills padded batches
    max_packed_length: int = 0  # longest example that is packed, in tokens; 0: all are padded
    placement: Placement = Placement()

    def batches(self, examples: Sequence[Example], rows: Sequence[int]) -> Iterator[Batch]:
        """Batches of the given rows, each row once, rows of similar length together.

        Rows are dealt out to the processes that make the run. Each gets as many batches as any other, because all must
        run the model equally often; the missing ones are empty.
        """
        shares = [self.pieces(examples, share) for share in self.placement.dealt(_by_falling_length(examples, rows))]
        own = shares[self.placement.rank]
        for piece in own:
            yield self.batch(examples, piece)
        for _ in range(max(map(len, shares)) - len(own)):
            yield self.batch(examples, (own or shares[0])[-1][-1:]).emptied()

    def pieces(self, examples: Sequence[Example], rows: Sequence[int]) -> list[list[int]]:
        """Rows of every batch."""
        is_packed = {row: self.packs(examples[row]) for row in rows}
        padded = cut(examples, [row for row in rows if not is_packed[row]], self.max_tokens)
        return padded + cut_packed(examples, [row for row in rows if is_packed[row]], self.max_tokens)

    def batch(self, examples: Sequence[Example], piece: Sequence[int]) -> Batch:
        """Batch of one of `pieces`."""
        if self.packs(examples[piece[0]]):
            return pack_batch(examples, piece)
        return make_batch(examples, piece, self.padding)

    def packs(self, example: Example) -> bool:
        """True if the row is packed with others."""
        return len(example.input_ids) <= self.max_packed_length


def cut(examples: Sequence[Example], rows: Sequence[int], max_tokens: int) -> list[list[int]]:
    """`rows` sorted by length and split into batches of at most `max_tokens` padded tokens (at least one row)."""
    pieces: list[list[int]] = []
    for row in _by_falling_length(examples, rows):
        # sorted by descending length, so the first row of a batch is its widest
        fits = pieces and len(examples[pieces[-1][0]].input_ids) * (len(pieces[-1]) + 1) <= max_tokens
        if fits:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces


def cut_packed(examples: Sequence[Example], rows: Sequence[int], max_tokens: int) -> list[list[int]]:
    """`rows` sorted by length and split into batches of at most `max_tokens` tokens without padding (at least one row).

    Attention pads them within a batch, so similar lengths help.
    """
    pieces: list[list[int]] = []
    num_tokens = 0
    for row in _by_falling_length(examples, rows):
        num_tokens += len(examples[row].input_ids)
        if pieces and num_tokens <= max_tokens:
            pieces[-1].append(row)
        else:
            pieces.append([row])
            num_tokens = len(examples[row].input_ids)
    return pieces


def _by_falling_length(examples: Sequence[Example], rows: Sequence[int]) -> list[int]:
    return sorted(rows, key=lambda row: (-len(examples[row].input_ids), row))


def step_rows(num_rows: int, batch_size: int, num_steps: int, seed: int) -> Iterator[list[int]]:
    """Rows of every optimizer step: a new order each epoch, the same for every arm with this seed."""
    done, epoch = 0, 0
    while done < num_steps:
        order = list(range(num_rows))
        random.Random(f"order {seed} {epoch}").shuffle(order)
        for start in range(0, num_rows, batch_size):
            if done < num_steps:
                yield order[start : start + batch_size]
            done += 1
        epoch += 1
