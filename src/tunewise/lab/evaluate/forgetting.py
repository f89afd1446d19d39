"""Learning against forgetting during a run: loss on the validation set and on general text, at the same steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tunewise.lab.data.batching import Example
from tunewise.lab.evaluate.score import summarise
from tunewise.records import FORGETTING_SCHEMA, Evaluation
from tunewise.storage.disk import write_table

Score = Callable[[Sequence[Example]], list[dict[str, Any]]]


@dataclass
class ForgettingCurve:
    """Measurements of one run, which grow during training. Step 0 is the untrained model, which is the base."""

    steps: frozenset[int]  # steps at which to measure; empty: none
    valid: Sequence[Example]
    general: Sequence[Example]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def measure(self, step: int, score: Score, evaluation: Evaluation | None) -> None:
        """Add a row per document of the general text, if this is a step to measure at.

        The validation set is scored unless an `evaluation` of the step has already done so.
        """
        valid_nll = (evaluation or summarise(score(self.valid), step)).nll
        documents: dict[str, dict[str, Any]] = {}
        for row in score(self.general):
            unit = row["unit"]
            document = documents.setdefault(
                unit, {"step": step, "valid_nll": valid_nll, "unit": unit, "nll": 0.0, "num_tokens": 0}
            )
            document["nll"] += row["nll"]
            document["num_tokens"] += row["num_tokens"]
        self.rows += documents.values()

    def write(self, path: Path) -> None:
        """Write records.FORGETTING_SCHEMA, if anything was measured."""
        if self.rows:
            write_table(path, pa.Table.from_pylist(self.rows, schema=FORGETTING_SCHEMA))
