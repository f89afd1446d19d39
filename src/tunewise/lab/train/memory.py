"""Handling of batches that do not fit in memory: the same rows again, in smaller parts."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from tunewise.lab.data.batching import Batch, Example
from tunewise.lab.placement import ALONE, Placement

Found = TypeVar("Found")
PLAIN_ERRORS = ("DefaultCPUAllocator", "MPS backend out of memory")  # torch raises these as plain RuntimeErrors


def is_out_of_memory(error: BaseException) -> bool:
    """True if the machine, or its accelerator, ran out of memory."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or any(words in str(error) for words in PLAIN_ERRORS)


class MemoryBudget:
    """Tokens of a batch that are in memory at once: halved whenever memory runs out."""

    def __init__(self, asked: int, allowed: int | None = None, placement: Placement = ALONE) -> None:
        self.asked = asked
        # several processes make the same batches in step, and one that ran out of memory has lost the step
        self.is_fixed = placement.world > 1
        self.max_tokens = min(asked, allowed or asked)

    @property
    def halved_to(self) -> int | None:
        """Tokens at once, if fewer than the study asks for; None: as it asks."""
        return self.max_tokens if self.max_tokens < self.asked else None

    def lower(self, max_tokens: int | None) -> None:
        """Use at most this many from now on; None: no change."""
        self.max_tokens = min(self.max_tokens, max_tokens or self.max_tokens)

    def lower_below(self, batches: Sequence[Batch]) -> bool:
        """True if the largest of these batches can be, and from now on is, split in two; one example stays whole."""
        if self.is_fixed or all(len(batch.rows) == 1 for batch in batches):
            return False
        self.lower(max(1, max(batch.input_ids_BT.numel() for batch in batches if len(batch.rows) > 1) // 2))
        return True

    def within(self, work: Callable[[], Found], examples: Sequence[Example]) -> Found:
        """Result of `work()`, which reads `examples` in batches of this budget, halved while memory is short.

        For work without side effects. Raises as `work` does once a batch is no larger than the longest example.
        """
        longest = max((len(example.input_ids) for example in examples), default=0)
        while True:
            try:
                return work()
            except Exception as error:
                if self.is_fixed or not is_out_of_memory(error) or self.max_tokens <= longest:
                    raise
            # outside the handler: the error keeps everything that was in memory when it was raised
            self.max_tokens = max(1, self.max_tokens // 2)
            release_memory()


def release_memory() -> None:
    """Release the accelerator memory that torch keeps for reuse."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
