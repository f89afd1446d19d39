"""What a log of one run holds, whatever program wrote it.

Shapes: N items.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunewise.inputs.training import NOTHING_LEFT
from tunewise.records.data import LeftByTrainer


@dataclass(frozen=True)
class TaskLog:
    """The scores of one run on one task, in the order of its file."""

    path: Path
    task: str
    metric: str  # as the log names it; with its filter, if there are several: 'exact_match,strict-match'
    higher_is_better: bool
    ids: pa.Array  # N texts
    numerators: npt.NDArray[np.float64]  # N; of a metric without weights, the scores
    weights: npt.NDArray[np.int64] | None  # N, for example words; None: every item counts the same
    per: str | None  # what a weight counts; None: no weights
    units: pa.Array | None  # N texts; None: every item is a unit of its own
    prompts: pa.Array | None  # N hashes or texts; None: not known
    rows: npt.NDArray[np.int64]  # N; places in the file, from 0
    has_texts: bool = True  # False: the file holds no questions or answers
    facts: Mapping[str, Any] = field(default_factory=dict)  # that must be the same in all runs: version, shots


@dataclass(frozen=True)
class RunLog:
    """All tasks of one run."""

    name: str  # for messages and the report
    seed: str | None  # label of its seed or checkpoint; None: not known
    tasks: Mapping[str, TaskLog]
    model: str | None = None
    is_adapter: bool | None = None  # None: not known
    settings: Mapping[str, str] = field(default_factory=dict)  # that should be the same in all runs
    training: LeftByTrainer = NOTHING_LEFT  # what its trainer left, if the model's folder is here
