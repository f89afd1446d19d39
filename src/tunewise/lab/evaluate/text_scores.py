"""What the metrics of written text sum over examples; the sums become values in desk/statistics/text_metrics.py."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunewise.errors import DataError
from tunewise.lab.data.batching import Example
from tunewise.lab.evaluate.generate import Generated
from tunewise.lab.private import chrf_sums
from tunewise.spec import MetricSpec

Count = Callable[[str, Sequence[str]], list[float]]  # (written, references, one or more) -> what is summed


def written_columns(
    metrics: Sequence[MetricSpec], examples: Sequence[Example], written: Sequence[Generated]
) -> list[dict[str, Any]]:
    """The columns records.WRITTEN_COLUMNS, a row per example.

    Raises DataError where an answer of the data has nothing that `extract` of exact_match finds.
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
    """1 where what `extract` finds last is that of a reference, white space and thousands commas aside."""

    def count(written: str, references: Sequence[str]) -> list[float]:
        wanted = {last_match(metric.extract, reference) for reference in references} - {None}
        if not wanted:
            raise DataError(
                f"metrics: {metric.name} extracts '{metric.extract}', which the answer {references[0][-60:]!r} of the "
                "test data does not hold. Mend the expression, or leave such rows out."
            )
        return [float(last_match(metric.extract, written) in wanted)]

    return count


def last_match(extract: str | None, text: str) -> str | None:
    """Group 1 (without groups: all) of the last match, normalised; None: no match. Without `extract` the whole text."""
    if extract is None:
        return _normalised(text)
    found = list(re.finditer(extract, text))
    # a group that took no part in the match found nothing
    part = found[-1][min(1, found[-1].re.groups)] if found else None
    return None if part is None else _normalised(part)


def _normalised(text: str) -> str:
    return " ".join(re.sub(r"(?<=\d),(?=\d)", "", text).split())


def matches(metric: MetricSpec) -> Count:
    """1 where `extract` matches somewhere in what was written."""
    assert metric.extract is not None, "checked by MetricSpec"
    pattern = re.compile(metric.extract)
    return lambda written, references: [float(pattern.search(written) is not None)]


def bleu(metric: MetricSpec) -> Count:
    """Lengths of both in words, then matches and totals of 1- to 4-grams; sacrebleu's 13a tokenizer.

    Of several references the length is the closest one's, and an n-gram may be any one's (Papineni et al. 2002).
    """
    from sacrebleu.metrics import BLEU

    scorer = BLEU(effective_order=True)  # of the score only, which is not used

    def count(written: str, references: Sequence[str]) -> list[float]:
        found = scorer.sentence_score(written, list(references))
        return [float(n) for n in (found.sys_len, found.ref_len, *found.counts, *found.totals)]

    return count


def chrf(metric: MetricSpec) -> Count:
    """Of character 1- to 6-grams each: how many were written, are in the reference, are in both; of the best one."""
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
