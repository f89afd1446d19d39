"""Frozen base classes, of all plain data and of the methods of arms, and canonical JSON."""

import json
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_serializer

if TYPE_CHECKING:
    from tunewise.spec.words import Quantization


class Frozen(BaseModel):
    """A frozen pydantic model: unknown keys are errors, and `replace` validates again."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated like a new one. Raises pydantic.ValidationError."""
        return type(self).model_validate({**self.model_dump(), **changes})


class AnyMethod(Frozen):
    """Interface of every method. Callers use it instead of testing for a method's class."""

    is_trained: ClassVar[bool] = False
    left_out: ClassVar[tuple[str, ...]] = ()  # keys that came later

    @model_serializer(mode="wrap")
    def _without_unset(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Plain data without the unset keys of `left_out`, so that hashes and folders from before them stay valid."""
        return {name: value for name, value in dump(self).items() if value or name not in self.left_out}

    @property
    def has_seeds(self) -> bool:
        """True if every seed is a run of its own; else one scoring counts for all seeds."""
        return self.is_trained

    @property
    def has_open_rank(self) -> bool:
        """True if the arm's own trials choose its rank (`rank: auto`)."""
        return False

    @property
    def quantized(self) -> "Quantization | None":
        """How the base of the arm is stored; None: whole, as it is."""
        return getattr(self, "base", None)

    @property
    def has_open_targets(self) -> bool:
        """True if one arm per placement replaces this one (`targets: auto`)."""
        return False

    @property
    def truncations(self) -> tuple[int, ...]:
        """Lower ranks to which the adapter of a full-length trial is truncated for scoring."""
        return ()

    @property
    def num_truncated(self) -> int:
        """Number of scorings that `truncations` cost: uniform and spread ranks, which are the same at rank 1."""
        return 2 * len(self.truncations) - (1 in self.truncations)

    @property
    def num_extracted(self) -> int:
        """Number of scorings of adapters extracted from a confirmed run."""
        return 0

    def as_trained(self, *, is_confirmed: bool) -> Self:
        """The method as one run trains it: with a definite rank, extracting only from a confirmed run."""
        return self

    @abstractmethod
    def in_words(self) -> str:
        """The method in words, such as 'LoRA r=8, alpha=32 (scale 4), qkv'."""


def canonical_json(value: object) -> str:
    """Canonical JSON text of plain data; hashes are computed from it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
