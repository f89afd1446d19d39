"""Low-rank analysis: the change made by full fine-tuning, and the quality of adapters extracted from it.

Full fine-tuning's change of a module, truncated to rank r, is the nearest change that an adapter of rank r can make
(lab/evaluate/extract.py). Compared on `valid` with the adapter trained at that rank, it distinguishes two causes of
a loss: a rank that is too low, and training that did not find what the rank can represent.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tunewise.adapter.lowrank import Floats, effective_rank, energy, energy_rank, stable_rank
from tunewise.desk.metrics.metric import Metric
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.statistics.harm import Harm, harm
from tunewise.desk.statistics.intervals import Estimate
from tunewise.errors import StudyError, clause
from tunewise.records import SPECTRUM_SCHEMA
from tunewise.spec import Frozen
from tunewise.storage.files import read_table

# A quality loss with its interval, relative to the margin on the validation set. open: the interval contains the margin
State = Literal["within", "beyond", "open"]
# Why a trained adapter loses more than the margin. `optimisation`: the adapter extracted at its rank does not lose
# that much; `rank`: the extracted one does, but the whole change of its modules does not; `targets`: even the whole
# change does; `open`: the intervals do not tell. None: the trained adapter does not lose more, or that is open.
Cause = Literal["rank", "optimisation", "targets", "open"]
ENERGY_SHARE = 0.9
Row = dict[str, Any]  # of records.SPECTRUM_SCHEMA


class ModuleChange(Frozen):
    """The change of one module by full fine-tuning; means over the confirmed runs."""

    module: str
    num_outputs: int
    num_inputs: int
    relative_size: float | None  # Frobenius norm of the change over that of the base's weight; None: that is 0
    energies: dict[int, float | None]  # rank -> share of the squared norm that the rank holds; None: nothing changed
    energy_rank: float  # the smallest rank that holds 90% of the squared norm
    effective_rank: float | None  # exp of the entropy of the singular values (Roy & Vetterli 2007)
    stable_rank: float | None  # squared norm over the largest squared singular value
    intruders: float  # of the tuned weight's 10 leading directions, those that the base does not have


class Shortfall(Frozen):
    """An adapter compared with full fine-tuning on `valid`, with the same seeds."""

    value: float  # of the metric
    difference: Estimate  # from full, 95%, not adjusted for the number of adapters
    state: State


class Extracted(Frozen):
    """An adapter extracted from full fine-tuning, and the arm trained at its rank on its targets."""

    targets: str
    rank: int | None  # None: the whole change of the targets
    cut: Shortfall
    arm: str | None  # None: the study has no such arm, or it is not confirmed
    trained: Shortfall | None
    cause: Cause | None


class LowRank(Frozen):
    """The change made by full fine-tuning, and how much of it adapters represent."""

    arm: str  # the arm from which adapters are extracted
    metric: str
    value: float  # of this arm on `valid`
    margin: float  # in units of the metric
    num_seeds: int
    num_units: int
    energies: dict[int, float | None]  # of all linear modules together, as of one
    modules: tuple[ModuleChange, ...]
    extracted: tuple[Extracted, ...]


def read_spectrum(path: Path) -> list[Row]:
    """The rows of spectrum.parquet. Raises StudyError if they cannot be read."""
    try:
        rows: list[Row] = read_table(path).cast(SPECTRUM_SCHEMA).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StudyError(
            f"cannot read the singular values in {path}: {clause(error)}. Delete {path.parent} and run the study again."
        ) from error
    return rows


def module_changes(runs: Sequence[Sequence[Row]], ranks: Sequence[int]) -> tuple[ModuleChange, ...]:
    """Every linear module with the means over `runs`, each the rows of a spectrum.parquet."""
    return tuple(_module(of_module, ranks) for of_module in zip(*runs, strict=True))


def _module(rows: Sequence[Row], ranks: Sequence[int]) -> ModuleChange:
    spectra = [_values(row) for row in rows]
    sizes = [_ratio(float(np.linalg.norm(s)), row["base_norm"]) for s, row in zip(spectra, rows, strict=True)]
    first = rows[0]
    return ModuleChange.model_validate(
        {
            **{name: first[name] for name in ("module", "num_outputs", "num_inputs")},
            "relative_size": _mean(sizes),
            "energies": {rank: _mean([energy(s, rank) for s in spectra]) for rank in ranks},
            "energy_rank": _mean([energy_rank(s, ENERGY_SHARE) for s in spectra]),
            "effective_rank": _mean([effective_rank(s) for s in spectra]),
            "stable_rank": _mean([stable_rank(s) for s in spectra]),
            "intruders": _mean([row["intruders"] for row in rows]),
        }
    )


def whole_energies(runs: Sequence[Sequence[Row]], ranks: Sequence[int]) -> dict[int, float | None]:
    """Rank -> share of the squared norm of the whole change in adapters of this rank on every module."""
    found: dict[int, float | None] = {}
    for rank in ranks:
        shares = []
        for rows in runs:
            squares = [_values(row) ** 2 for row in rows]
            shares.append(_ratio(sum(float(s[:rank].sum()) for s in squares), sum(float(s.sum()) for s in squares)))
        found[rank] = _mean(shares)
    return found


def _values(row: Row) -> Floats:
    return np.asarray(row["singular_values"], dtype=np.float64)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else None


def shortfall(metric: Metric, value: float, runs: Sequence[Scores], full: Sequence[Scores], margin: float) -> Shortfall:
    """`runs` compared with `full`, seed by seed."""
    found = harm(metric, runs, full)
    return Shortfall(value=value, difference=found.difference, state=_state(found, margin))


def _state(found: Harm, margin: float) -> State:
    return "within" if found.within(margin) else "beyond" if found.beyond(margin) else "open"


def cause(trained: Shortfall, cut: Shortfall, whole: Shortfall) -> Cause | None:
    """Cause of an adapter's loss relative to full; None: no loss, or not conclusive."""
    if trained.state != "beyond":
        return None
    if cut.state == "within":
        return "optimisation"
    if cut.state == "beyond" and whole.state == "within":
        return "rank"
    if whole.state == "beyond":
        return "targets"
    return "open"
