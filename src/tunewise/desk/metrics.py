"""What a run scored, and every metric as a function of sums over examples.

A metric turns each example into K numbers; its value is a function of their column sums alone. So a value never
depends on batches or on the order of rows, the same formula gives one run, one unit or all units but one, and
anybody can check it from scores.parquet. No metric is a mean of means.

Shapes: N examples, C classes, K sums of a metric.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tunewise.errors import StudyError
from tunewise.records import SCORES_SCHEMA
from tunewise.registry import lookup
from tunewise.spec import Task

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]  # of str; objects, because numpy's own strings pad every row to the longest


@dataclass(frozen=True)
class Scores:
    """One split of one run: a row per example, sorted by example id, in the columns of records.SCORES_SCHEMA."""

    examples: Texts  # N, unique
    units: Texts  # N; rows of one unit are not independent
    nll: Floats  # N, nats summed over the example's supervised tokens
    num_tokens: Integers  # N, supervised tokens
    num_bytes: Integers  # N, UTF-8 bytes of the supervised text
    labels: Integers  # N; -1: not a classification
    predictions: Integers  # N; -1: not a classification
    class_log_probabilities: Floats  # N, C; C is 0 where it is not a classification


def read_scores(path: Path, split: str) -> Scores:
    """The scores of one split, sorted by example id, whatever the order in the file.

    Raises StudyError where the file cannot be read, lacks a column or the split, names an example twice, or holds a
    number that is missing or not finite.
    """
    mend = f"Delete {path.parent} and run the study again."
    try:
        # ParquetFile, not read_table: the latter takes folder names such as `a=b` for columns
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (OSError, pa.ArrowException) as error:
        raise StudyError(f"cannot read the scores in {path}: {error}. {mend}") from error
    if lacking := [name for name in SCORES_SCHEMA.names if name not in table.column_names]:
        raise StudyError(f"{path} lacks the columns {', '.join(lacking)}. {mend}")
    present = table["split"].to_pylist()
    table = table.filter(pa.array([name == split for name in present], pa.bool_()))
    if table.num_rows == 0:
        known = ", ".join(sorted({str(name) for name in present})) or "none"
        raise StudyError(f"{path} has no scores of split '{split}'; it holds: {known}. {mend}")
    if holes := [name for name in SCORES_SCHEMA.names if table[name].null_count]:
        raise StudyError(f"{path}: split '{split}' has rows without {', '.join(holes)}. {mend}")
    scores = _sorted_scores(table.select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA), path, mend)
    if len(set(scores.examples)) < len(scores.examples):
        raise StudyError(f"{path}: split '{split}' scores an example twice. {mend}")
    if not np.isfinite(scores.nll).all():
        row = scores.examples[~np.isfinite(scores.nll)][0]
        raise StudyError(f"{path}: the nll of example '{row}' is not a finite number. {mend}")
    return scores


def _sorted_scores(table: pa.Table, path: Path, mend: str) -> Scores:
    examples = np.array(table["example"].to_pylist(), dtype=object)
    order = np.argsort(examples, kind="stable")
    lists = table["class_log_probabilities"].to_pylist()
    if len({len(row) for row in lists}) > 1:
        raise StudyError(f"{path}: rows have different numbers of class_log_probabilities. {mend}")

    def column(name: str) -> npt.NDArray[np.generic]:
        values: npt.NDArray[np.generic] = table[name].to_numpy()
        return values[order]

    return Scores(
        examples=examples[order],
        units=np.array(table["unit"].to_pylist(), dtype=object)[order],
        nll=column("nll").astype(np.float64),
        num_tokens=column("num_tokens").astype(np.int64),
        num_bytes=column("num_bytes").astype(np.int64),
        labels=column("label").astype(np.int64),
        predictions=column("prediction").astype(np.int64),
        class_log_probabilities=np.array(lists, dtype=np.float64).reshape(len(lists), -1)[order],
    )


# How a metric is made of its sums, which decides how its interval is made (desk/paired.py).
Form = Literal[
    "ratio",  # first sum / second sum
    "proportion",  # the same, of counts: a share in [0, 1]
    "exponential",  # exp of the ratio that NLL is: compared through NLL
    "nonlinear",  # any other function of sums
]


@dataclass(frozen=True)
class Metric:
    """A metric: how examples become sums, how sums become a value, and how a value is shown."""

    name: str
    label: str
    higher_is_better: bool
    unit: str
    difference_unit: str
    scale: float  # a value times this is what a reader sees, in `unit`
    decimals: int  # of what a reader sees
    form: Form
    sums: Callable[[Scores], Floats]  # (N, K)
    value: Callable[[Floats], Floats]  # column sums (..., K) -> (...)


def compute(name: str, scores: Scores) -> float:
    """The metric's value over all rows of `scores`; `inf` for a perplexity beyond float64.

    Raises SpecError for an unknown metric, StudyError where the rows hold nothing that it could be computed from.
    """
    metric = lookup(METRICS, name, "metric")
    return float(metric.value(metric.sums(scores).sum(axis=0)))


def metrics_of(task: Task) -> tuple[str, ...]:
    """The names of the metrics that are reported for a task, the most telling one first."""
    return ("accuracy", "macro_f1", "nll") if task == "classify" else ("nll", "perplexity", "bits_per_byte")


def primary_metric(task: Task) -> str:
    """The metric that the verdict is about."""
    return metrics_of(task)[0]


# --- examples -> sums


def _nll_and_tokens(scores: Scores) -> Floats:
    return _pair(scores.nll, scores.num_tokens, "supervised tokens")


def _bits_and_bytes(scores: Scores) -> Floats:
    return _pair(scores.nll / math.log(2), scores.num_bytes, "bytes of supervised text")


def _correct_and_rows(scores: Scores) -> Floats:
    labels = _labels(scores)
    return _pair((labels == scores.predictions).astype(np.float64), np.ones_like(labels), "rows")


def _pair(numerators: Floats, denominators: Integers, what: str) -> Floats:
    if denominators.sum() <= 0:
        raise StudyError(f"a metric per {what} needs some, but the scores count {denominators.sum()}. Check the data.")
    return np.stack([numerators, denominators.astype(np.float64)], axis=1)


def _hits_labels_and_predictions(scores: Scores) -> Floats:
    """(N, 3C): per class 1 where the row is a hit, has the label, has the prediction."""
    labels, predictions = _labels(scores), scores.predictions
    classes = np.arange(max(labels.max(), predictions.max()) + 1)
    is_label, is_prediction = labels[:, None] == classes, predictions[:, None] == classes
    return np.concatenate([is_label & is_prediction, is_label, is_prediction], axis=1).astype(np.float64)


def _labels(scores: Scores) -> Integers:
    if scores.labels.min() < 0:
        raise StudyError("accuracy and F1 need a label in every row, but these are scores of no classification.")
    return scores.labels


# --- sums -> value


def _ratio(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / sums[..., 1], dtype=np.float64)


def _exponential_of_ratio(sums: Floats) -> Floats:
    with np.errstate(over="ignore"):  # of a diverged run: inf
        return np.asarray(np.exp(_ratio(sums)), dtype=np.float64)


def _macro_f1(sums: Floats) -> Floats:
    """Mean over classes of 2 hits / (labels + predictions); a class with neither has no F1 and is left out."""
    hits, labels, predictions = np.split(sums, 3, axis=-1)
    present = labels + predictions > 0
    f1 = 2 * hits / np.where(present, labels + predictions, 1)
    return np.asarray(f1.sum(axis=-1) / present.sum(axis=-1), dtype=np.float64)


_NLL = Metric(
    name="nll",
    label="NLL",
    higher_is_better=False,
    unit="nats per supervised token",
    difference_unit="nats per supervised token",
    scale=1,
    decimals=4,
    form="ratio",
    sums=_nll_and_tokens,
    value=_ratio,
)
_PERPLEXITY = Metric(
    name="perplexity",
    label="perplexity",
    higher_is_better=False,
    unit="",
    difference_unit="",
    scale=1,
    decimals=3,
    form="exponential",
    sums=_nll_and_tokens,
    value=_exponential_of_ratio,
)
_BITS_PER_BYTE = Metric(
    name="bits_per_byte",
    label="bits per byte",
    higher_is_better=False,
    unit="bits per byte",
    difference_unit="bits per byte",
    scale=1,
    decimals=4,
    form="ratio",
    sums=_bits_and_bytes,
    value=_ratio,
)
_ACCURACY = Metric(
    name="accuracy",
    label="accuracy",
    higher_is_better=True,
    unit="%",
    difference_unit="percentage points",
    scale=100,
    decimals=2,
    form="proportion",
    sums=_correct_and_rows,
    value=_ratio,
)
_MACRO_F1 = Metric(
    name="macro_f1",
    label="macro F1",
    higher_is_better=True,
    unit="%",
    difference_unit="percentage points",
    scale=100,
    decimals=2,
    form="nonlinear",
    sums=_hits_labels_and_predictions,
    value=_macro_f1,
)
METRICS: dict[str, Metric] = {m.name: m for m in (_NLL, _PERPLEXITY, _BITS_PER_BYTE, _ACCURACY, _MACRO_F1)}
