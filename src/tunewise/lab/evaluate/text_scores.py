"""Per-example statistics of metrics of written text; desk/metrics/text_metrics.py turns their sums into values."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunewise.errors import DataError
from tunewise.lab.data.batching import Example
from tunewise.lab.evaluate.generate import Generated
from tunewise.lab.private import chrf_sums
from tunewise.spec import MetricSpec

Count = Callable[[str, Sequence[str]], list[float]]  # (written, references, one or more) -> numbers to sum


def written_columns(
    metrics: Sequence[MetricSpec], examples: Sequence[Example], written: Sequence[Generated]
) -> list[dict[str, Any]]:
    """The columns records.WRITTEN_COLUMNS, one row per example.

    Raises DataError if an answer of the data contains no match for `extract` of exact_match.
    """
    counts = {metric.name: COUNTS[metric.counted_as](metric) for metric in metrics if metric.counted_as in COUNTS}
    return [
        {
            "generated": one.text,
            "num_generated": one.num_tokens,
            "stopped": one.stopped,
            "statistics": [
                (name, count(one.text, tuple(example.references) or (example.reference,)))
                for name, count in counts.items()
            ],
        }
        for example, one in zip(examples, written, strict=True)
    ]


def exact_match(metric: MetricSpec) -> Count:
    """1 if the last match of `extract` equals that in a reference, ignoring white space and thousands commas."""

    def count(written: str, references: Sequence[str]) -> list[float]:
        wanted = {last_match(metric.extract, reference) for reference in references} - {None}
        if not wanted:
            raise DataError(
                f"metrics: {metric.name} extracts '{metric.extract}', which the answer {references[0][-60:]!r} of the "
                "data does not contain. Correct the expression, or remove such rows."
            )
        return [float(last_match(metric.extract, written) in wanted)]

    return count


def last_match(extract: str | None, text: str) -> str | None:
    """Group 1 (without groups: all) of the last match, normalized; None: no match. Without `extract` the whole text."""
    if extract is None:
        return _normalised(text)
    found = list(re.finditer(extract, text))
    # a group that took no part in the match is empty
    part = found[-1][min(1, found[-1].re.groups)] if found else None
    return None if part is None else _normalised(part)


def _normalised(text: str) -> str:
    return " ".join(re.sub(r"(?<=\d),(?=\d)", "", text).split())


def matches(metric: MetricSpec) -> Count:
    """1 if `extract` matches anywhere in the text."""
    assert metric.extract is not None, "checked by MetricSpec"
    pattern = re.compile(metric.extract)
    return lambda written, references: [float(pattern.search(written) is not None)]


def bleu(metric: MetricSpec) -> Count:
    """Lengths of both texts in words, then matches and totals of 1- to 4-grams; sacrebleu's 13a tokenizer.

    With several references the length is that of the closest one, and an n-gram may come from any (Papineni et al.
    2002).
    """
    from sacrebleu.metrics import BLEU

    scorer = BLEU(effective_order=True)  # affects only the score, which is not used

    def count(written: str, references: Sequence[str]) -> list[float]:
        found = scorer.sentence_score(written, list(references))
        return [float(n) for n in (found.sys_len, found.ref_len, *found.counts, *found.totals)]

    return count


def chrf(metric: MetricSpec) -> Count:
    """For character 1- to 6-grams each: counts in the text, in the reference, in both; for the best reference."""
    from sacrebleu.metrics import CHRF

    scorer = CHRF()

    return lambda written, references: chrf_sums(scorer, written, references)


def rouge_l(metric: MetricSpec) -> Count:
    """F1 of the longest common subsequence of words with the best reference (Lin 2004), averaged; no stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return lambda written, references: [
        max(float(scorer.score(reference, written)["rougeL"].fmeasure) for reference in references)
    ]


COUNTS: Mapping[str, Callable[[MetricSpec], Count]] = {
    count.__name__: count for count in (exact_match, matches, bleu, chrf, rouge_l)
}
