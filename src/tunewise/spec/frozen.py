"""Frozen base class of all plain data, and its canonical JSON."""

import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A frozen pydantic model: unknown keys are errors, and `replace` validates again."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated like a new one. Raises pydantic.ValidationError."""
        return type(self).model_validate({**self.model_dump(), **changes})


def canonical_json(value: object) -> str:
    """Canonical JSON text of plain data; hashes are computed from it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
