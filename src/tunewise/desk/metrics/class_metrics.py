"""Classification metrics: accuracy, macro F1, Matthews correlation, calibration error.

Shapes: N examples, C classes, K sums of a metric.
"""

import numpy as np

from tunewise.desk.arrays import Floats, Integers
from tunewise.desk.metrics.metric import Metric, Sums, per_row, share
from tunewise.desk.metrics.scores import Scores
from tunewise.errors import StudyError

NUM_BINS = 15


def _labels(scores: Scores) -> Integers:
    if scores.labels.min() < 0:
        raise StudyError(
            "a classification metric needs a label in every row, but these scores are not from a classification."
        )
    return scores.labels


# --- examples -> sums


def _correct_and_rows(scores: Scores) -> Floats:
    return per_row((_labels(scores) == scores.predictions).astype(np.float64))


def _hits_labels_and_predictions(scores: Scores) -> Sums:
    """(N, 3C): per class 1 where the row is a hit, has the label, has the prediction."""
    labels, predictions = _labels(scores), scores.predictions
    # as many columns in every run, whichever classes it predicts: runs are compared column by column
    num_classes = max(scores.num_classes, labels.max() + 1, predictions.max() + 1)
    classes = np.arange(num_classes)
    is_label, is_prediction = labels[:, None] == classes, predictions[:, None] == classes
    return np.concatenate([is_label & is_prediction, is_label, is_prediction], axis=1)  # a byte each, not eight


def _excess_by_bin_and_rows(scores: Scores) -> Floats:
    """(N, 16): in the bin of the top probability, being right (0 or 1) minus that probability; and 1 a row."""
    top = np.exp(scores.top_log_probabilities)
    correct = (_labels(scores) == scores.predictions).astype(np.float64)
    # bins ((b - 1) / 15, b / 15]
    bins = np.clip(np.ceil(top * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    sums = np.zeros((len(top), NUM_BINS + 1))
    sums[np.arange(len(top)), bins] = correct - top
    sums[:, NUM_BINS] = 1
    return sums


# --- sums -> value


def _macro_f1(sums: Floats) -> Floats:
    """Mean over classes of 2 hits / (labels + predictions); a class with neither has no F1 and is left out."""
    hits, labels, predictions = np.split(sums, 3, axis=-1)
    present = labels + predictions > 0
    f1 = 2 * hits / np.where(present, labels + predictions, 1)
    return np.asarray(f1.sum(axis=-1) / present.sum(axis=-1), dtype=np.float64)


def _matthews(sums: Floats) -> Floats:
    """Matthews correlation for any number of classes (Gorodkin 2004, Computational Biology and Chemistry 28).

    With one label or one prediction throughout it is 0 / 0, taken as 0: such predictions tell nothing.
    """
    hits, labels, predictions = np.split(sums, 3, axis=-1)
    rows = labels.sum(axis=-1)
    covariance = hits.sum(axis=-1) * rows - (labels * predictions).sum(axis=-1)
    variances = (rows**2 - (labels**2).sum(axis=-1)) * (rows**2 - (predictions**2).sum(axis=-1))
    return np.asarray(covariance / np.sqrt(np.where(variances > 0, variances, np.inf)), dtype=np.float64)


def _calibration_error(sums: Floats) -> Floats:
    """Sum over bins of |right answers - probability given to them| / rows (Guo et al. 2017, arXiv 1706.04599)."""
    return np.asarray(np.abs(sums[..., :NUM_BINS]).sum(axis=-1) / sums[..., NUM_BINS], dtype=np.float64)


ACCURACY = share("accuracy", "accuracy", _correct_and_rows)
MACRO_F1 = Metric(
    name="macro_f1",
    label="macro F1",
    higher_is_better=True,
    unit="%",
    difference_unit="percentage points",
    scale=100,
    decimals=2,
    highest=1,
    form="nonlinear",
    sums=_hits_labels_and_predictions,
    value=_macro_f1,
)
MATTHEWS = Metric(
    name="mcc",
    label="Matthews correlation",
    higher_is_better=True,
    lowest=-1,
    highest=1,
    form="nonlinear",
    sums=_hits_labels_and_predictions,
    value=_matthews,
)
CALIBRATION_ERROR = Metric(
    name="calibration_error",
    label="calibration error",
    higher_is_better=False,
    unit="%",
    difference_unit="percentage points",
    scale=100,
    decimals=2,
    highest=1,
    form="nonlinear",
    sums=_excess_by_bin_and_rows,
    value=_calibration_error,
)
CLASS_METRICS = (ACCURACY, MACRO_F1, MATTHEWS, CALIBRATION_ERROR)
