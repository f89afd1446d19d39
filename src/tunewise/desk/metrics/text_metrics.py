"""Metrics of generated text, from the statistics that the lab counted (lab/evaluate/text_scores.py).

The lab stores the terms of the sums, not the metric's value. The desk therefore needs no metric library to compute a
corpus metric, its jackknife or its interval.

Shapes: N examples, K sums of a metric.
"""

from collections.abc import Callable

import numpy as np

from tunewise.desk.arrays import Floats
from tunewise.desk.metrics.metric import Metric, per_row, ratio, share
from tunewise.desk.metrics.scores import Scores, Written
from tunewise.errors import StudyError

BLEU_ORDER = 4
CHRF_ORDER = 6
CHRF_BETA = 2  # recall counts twice as much as precision


def _written(scores: Scores) -> Written:
    if scores.written is None:
        raise StudyError(
            "a metric of generated text needs text in every row. List the metric under `metrics` in the study."
        )
    return scores.written


def _statistics(name: str) -> Callable[[Scores], Floats]:
    def of_rows(scores: Scores) -> Floats:
        found = _written(scores).statistics
        if name not in found:
            known = ", ".join(found) or "none"
            raise StudyError(f"nothing was counted for '{name}', only for: {known}. List it under `metrics`.")
        return found[name]

    return of_rows


def _mean_of(name: str) -> Callable[[Scores], Floats]:
    return lambda scores: per_row(_statistics(name)(scores)[:, 0])


def _ended(scores: Scores) -> Floats:
    return per_row(_written(scores).stopped.astype(np.float64))


def _lengths(scores: Scores) -> Floats:
    return per_row(_written(scores).num_tokens.astype(np.float64))


# --- sums -> value


def _bleu(sums: Floats) -> Floats:
    """Corpus BLEU in [0, 1] from hypothesis and reference lengths, matches and totals of 1- to 4-grams.

    Source: Papineni et al. 2002, with the exponential smoothing that is sacrebleu's default. The k-th order without a
    match counts as 1 / 2^k of a match. A corpus without any match scores 0.
    """
    written, wanted = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + BLEU_ORDER], sums[..., 2 + BLEU_ORDER :]
    halvings = np.cumsum(matches == 0, axis=-1)
    smoothed = np.where(matches > 0, matches, 0.5**halvings)
    defined = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):  # where not defined
        mean_log = np.log(smoothed / totals).mean(axis=-1)
        brevity = np.minimum(1 - wanted / written, 0)
        return np.asarray(np.where(defined, np.exp(mean_log + brevity), 0.0), dtype=np.float64)


def _chrf(sums: Floats) -> Floats:
    """Corpus chrF in [0, 1] from (hypothesis, reference, match) counts of character 1- to 6-grams.

    Precision and recall are means over the orders in which both texts have n-grams. Source: Popovic 2015.
    """
    written, wanted, matches = (sums[..., i::3] for i in range(3))
    both = (written > 0) & (wanted > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = (np.where(both, matches, 0) / np.where(both, written, 1)).sum(axis=-1) / orders
    recall = (np.where(both, matches, 0) / np.where(both, wanted, 1)).sum(axis=-1) / orders
    weighted = CHRF_BETA**2 * precision + recall
    f_score = (1 + CHRF_BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1)
    return np.asarray(f_score, dtype=np.float64)


def own_share(name: str) -> Metric:
    """The metric for a share of texts that the study itself defines."""
    return share(name, name.replace("_", " "), _mean_of(name))


def _points(name: str, label: str, sums: Callable[[Scores], Floats], value: Callable[[Floats], Floats]) -> Metric:
    return Metric(
        name=name,
        label=label,
        higher_is_better=True,
        unit="points of 100",
        difference_unit="points of 100",
        scale=100,
        decimals=2,
        highest=1,
        form="ratio" if value is ratio else "nonlinear",
        sums=sums,
        value=value,
    )


TEXT_METRICS = (
    share("exact_match", "exact match", _mean_of("exact_match")),
    share("matches", "texts that match", _mean_of("matches")),
    _points("bleu", "BLEU", _statistics("bleu"), _bleu),
    _points("chrf", "chrF", _statistics("chrf"), _chrf),
    _points("rouge_l", "ROUGE-L", _mean_of("rouge_l"), ratio),
    share("end_of_text", "texts that end before the cap", _ended),
    Metric(
        name="length",
        label="length",
        higher_is_better=False,
        unit="tokens written",
        difference_unit="tokens written",
        decimals=1,
        form="ratio",
        sums=_lengths,
        value=ratio,
    ),
)
