"""Batches for a plan: from the study's examples, or from examples of the largest length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tunewise.lab.data.batching import Batch, Batching, Example, step_rows
from tunewise.spec import TASKS, Task, TrainSpec

NUM_FIRST = 28  # steps


class Candidate(NamedTuple):
    """A micro-batch at which memory may peak."""

    batch: Batch
    follows_others: bool  # in its step, so the gradient is in memory as well


@dataclass(frozen=True)
class Workload:
    """Steps of a run, as micro-batches."""

    candidates: tuple[Candidate, ...]  # for the peak; the one with most tokens first
    first: tuple[tuple[Batch, ...], ...]  # the first steps, complete
    batching: Batching
    longest: Example  # of the candidates

    @property
    def fullest(self) -> list[Sequence[Batch]]:
        """Candidates as executable steps: those that begin a step alone, all others after another batch."""
        others = [of.batch for of in self.candidates if of.follows_others]
        alone: list[Sequence[Batch]] = [[of.batch] for of in self.candidates if not of.follows_others]
        return [*alone, *([[self.first[0][0], *others]] if others else [])]

    def of_longest(self, num_examples: int) -> Batch:
        """One micro-batch that contains only the longest example."""
        rows, tokens = [0] * num_examples, num_examples * len(self.longest.input_ids)
        (batch,) = Batching(tokens, 0, self.batching.max_packed_length).batches([self.longest], rows)
        return batch


def assumed_examples(task: Task, num_rows: int, length: int) -> list[Example]:
    """Examples for a study without data: `length` tokens each, all but the first trained on, or labeled."""
    label = 0 if TASKS[task].has_classes else -1
    supervised = [False] + [label < 0] * (length - 1)
    return [Example("assumed", "", [0] * length, supervised, 0, label, "", "")] * num_rows


def workload(examples: Sequence[Example], train: TrainSpec, seed: int, batching: Batching) -> Workload:
    """Workload of one epoch over `examples` in the order of `seed`; another seed combines others."""
    num_steps = min(train.num_steps(len(examples)), train.steps_per_epoch(len(examples)))
    steps = list(step_rows(len(examples), train.batch_size, num_steps, seed))
    found = [
        Candidate(batching.batch(examples, piece), follows_others)
        for piece, follows_others in _fullest(examples, steps, batching)
    ]
    return Workload(
        candidates=tuple(found),
        first=tuple(tuple(batching.batches(examples, rows)) for rows in steps[:NUM_FIRST]),
        batching=batching,
        longest=max((examples[row] for of in found for row in of.batch.rows), key=lambda e: len(e.input_ids)),
    )


Piece = tuple[list[int], bool]  # rows of a micro-batch, and whether it follows others of its step


def _fullest(examples: Sequence[Example], steps: Sequence[Sequence[int]], batching: Batching) -> list[Piece]:
    """The largest micro-batches by each measure of `_sizes`, without those that another one exceeds in all."""
    largest: dict[tuple[bool, int], tuple[tuple[int, ...], Piece]] = {}
    for rows_of_step in steps:
        for number, rows in enumerate(batching.pieces(examples, rows_of_step)):
            sizes = _sizes([examples[row] for row in rows], batching)
            for measure in range(len(sizes)):
                order = (sizes[measure], *sizes)
                best = largest.get((number > 0, measure))
                if best is None or order > best[0]:
                    largest[number > 0, measure] = (order, (rows, number > 0))
    kept: list[tuple[tuple[int, ...], Piece]] = []
    # from the second micro-batch on the gradient is in memory as well, so these come first
    for order, piece in sorted(largest.values(), key=lambda found: (found[1][1], found[0][1:]), reverse=True):
        sizes = order[1:]
        if not any(all(a <= b for a, b in zip(sizes, others, strict=True)) for others, _ in kept):
            kept.append((sizes, piece))
    return [piece for _, piece in sorted(kept, reverse=True)]


def _sizes(chosen: Sequence[Example], batching: Batching) -> tuple[int, ...]:
    """Sizes that need memory in different parts of a step: tokens, targets (logits), pairs of tokens (attention)."""
    longest = max(len(example.input_ids) for example in chosen)
    padded = len(chosen) * longest
    num_tokens = sum(len(example.input_ids) for example in chosen) if batching.packs(chosen[0]) else padded
    # attention also pads packed examples
    return num_tokens, sum(example.num_targets for example in chosen), padded * longest
