"""The batches that a plan is made for: cut from the study's examples, or from examples of the largest length."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from tunewise.lab.data.batching import Batch, Batching, Example, step_rows
from tunewise.spec import Task, TrainSpec

MOST_MICRO_BATCHES = 2  # of a step that are followed: from the second one on, memory holds the gradient as well
NUM_FIRST = 4  # steps


@dataclass(frozen=True)
class Workload:
    """Steps of a run, as micro-batches."""

    busiest: tuple[Batch, ...]  # the largest micro-batches of the step that needs most memory
    first: tuple[tuple[Batch, ...], ...]  # the first steps, whole
    batching: Batching
    longest: Example  # of the busiest

    def of_longest(self, num_examples: int) -> Batch:
        """One micro-batch of nothing but the longest example."""
        rows, tokens = [0] * num_examples, num_examples * len(self.longest.input_ids)
        (batch,) = Batching(tokens, 0, self.batching.max_packed_length).batches([self.longest], rows)
        return batch


def assumed_examples(task: Task, num_rows: int, length: int) -> list[Example]:
    """Where there is no data: examples of `length` tokens, every one but the first trained on, or labelled."""
    label = 0 if task == "classify" else -1
    supervised = [False] + [label < 0] * (length - 1)
    return [Example(str(row), "", [0] * length, supervised, 0, label, "", "") for row in range(num_rows)]


def workload(examples: Sequence[Example], train: TrainSpec, seed: int, batching: Batching) -> Workload:
    """Of one epoch over `examples` in the order of `seed`; another seed puts others together."""
    num_steps = min(train.num_steps(len(examples)), train.steps_per_epoch(len(examples)))
    steps = list(step_rows(len(examples), train.batch_size, num_steps, seed))
    begun = (tuple(islice(batching.batches(examples, rows), MOST_MICRO_BATCHES)) for rows in steps)
    busiest = max(begun, key=lambda batches: [_size(batch) for batch in batches])
    return Workload(
        busiest=busiest,
        first=tuple(tuple(batching.batches(examples, rows)) for rows in steps[:NUM_FIRST]),
        batching=batching,
        longest=max((examples[row] for batch in busiest for row in batch.rows), key=lambda e: len(e.input_ids)),
    )


def _size(batch: Batch) -> tuple[int, int]:
    """Tokens with padding, and the longest: attention needs more for few long texts than for many short ones."""
    longest = batch.input_ids_BT if batch.packed_12BL is None else batch.packed_12BL
    return batch.input_ids_BT.numel(), longest.shape[-1]
