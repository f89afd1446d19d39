"""Which base? Studies of different bases on the same rows, each with the method that its validation set prefers."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from tunewise.desk.fairness.finding import count
from tunewise.desk.judge.contrasts import TaskRuns
from tunewise.desk.metrics.metrics import measured_metric, metric_named
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.protocol.trials import selection_loss
from tunewise.desk.report import wording
from tunewise.desk.report.across import SAME_MEASUREMENT, SAME_TREATMENT, BaseVerdict, SideBySide, differences, rows_of
from tunewise.desk.report.views.view import Report
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.multiplicity import holm_levels
from tunewise.desk.statistics.paired import Contrast
from tunewise.desk.statistics.power import MIN_SEEDS, MIN_UNITS
from tunewise.desk.study.looks import read_looks
from tunewise.desk.study.state import StudyState
from tunewise.desk.study.verdicts import words_at
from tunewise.errors import StudyError
from tunewise.spec import TASKS
from tunewise.storage.ledger import Ledger

ERROR = 0.05  # two-sided, of all comparisons together
OF_TOKENS = {"nll", "perplexity"}  # metrics that count tokens, of which each tokenizer makes others

# What must be equal for two bases to be comparable: not the tokens, but the rows.
SAME_ROWS: dict[str, Callable[[Report], Any]] = {
    "task": SAME_MEASUREMENT["task"],
    "metric": SAME_MEASUREMENT["metric"],
    "test set": lambda report: report.data.test_set,
    "library versions": SAME_MEASUREMENT["library versions"],
}
SAME_DATA: dict[str, Callable[[Report], Any]] = {
    "training rows": lambda report: report.data.split("train").rows,
    "looks": lambda report: list(report.study.looks),
}


class Best(NamedTuple):
    """A base with its best method."""

    source: str  # the study's folder
    base: str
    arm: str
    runs: Sequence[Scores]  # by seed
    withheld_by: tuple[str, ...]  # fairness rules that block this arm


def have_other_bases(reports: Mapping[str, Report]) -> bool:
    """Whether the studies are of different bases or tokenizers."""
    return len({(of.data.inputs.base, of.data.inputs.tokenizer) for of in reports.values()}) > 1


def between_bases(ledgers: Mapping[str, Ledger], reports: Mapping[str, Report]) -> SideBySide:
    """The arms of all studies, and a verdict on the best one of each against that of the first study.

    Raises StudyError naming every difference that makes the scores incomparable, or a study that is not complete.
    """
    _require_comparable(reports)
    metric = _comparable_metric(next(iter(reports.values())))
    best = [_best(source, ledgers[source], report) for source, report in reports.items()]
    first, *others = best
    contrasts = [_contrast(metric, other, first) for other in others]
    p_values = [2 * min(of.probability_of_negative(), of.probability_of_positive()) for of in contrasts]
    levels = holm_levels(np.minimum(np.array(p_values), 1.0), ERROR)
    verdicts = [
        _verdict(metric, (other, first), contrast, float(level))
        for other, contrast, level in zip(others, contrasts, levels, strict=True)
    ]
    treatment = {name: of for name, of in SAME_TREATMENT.items() if name != "seeds"}
    remarks = [f"The studies differ in {reason}." for reason in differences(reports, {**treatment, **SAME_DATA})]
    rows = [row for source, report in reports.items() for row in rows_of(source, report, metric)]
    return SideBySide(rows=tuple(rows), remarks=tuple(remarks), bases=tuple(verdicts))


def _require_comparable(reports: Mapping[str, Report]) -> None:
    if reasons := differences(reports, SAME_ROWS):
        raise StudyError(
            f"these studies have different bases and cannot be compared, because they also differ in "
            f"{'; '.join(reasons)}. Run both bases on the same files with the same settings of `data`."
        )
    for source, report in reports.items():
        if report.data.test_set is None:
            raise StudyError(f"{source} is of an older version, which did not record its test set. Run it again.")
        if not report.is_complete:
            raise StudyError(f"{source} is not complete. Resume it, then compare: {report.study.command}")


def _comparable_metric(report: Report) -> str:
    """The metric of the verdicts, but a loss per token becomes one per byte."""
    primary = report.study.primary_metric
    has_tokens = not TASKS[report.study.task].has_classes
    return "bits_per_byte" if has_tokens and primary in OF_TOKENS else primary


def _best(source: str, ledger: Ledger, report: Report) -> Best:
    """The arm with the best validation result over its confirmed runs. The test set has no part in the choice."""
    state = read_looks(StudyState.read(ledger), words_at).state
    losses = {
        arm: sum(map(selection_loss, runs)) / len(runs)
        for arm, runs in state.confirmed.items()
        if runs and arm in state.study.trained_arms
    }
    finite = {arm: loss for arm, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        raise StudyError(f"{source} has no arm with a confirmed run, so its base has no best method.")
    arm = min(finite, key=lambda name: finite[name])
    withheld = [of.id for of in report.warnings if of.severity == "blocks" and (not of.arms or arm in of.arms)]
    return Best(source, report.study.model, arm, state.scores(state.confirmed[arm]), tuple(dict.fromkeys(withheld)))


def _contrast(metric: str, own: Best, other: Best) -> Contrast:
    """Own - other: rows are paired by their units, seeds are not, because each base has its own."""
    measured = measured_metric(metric, own.runs[0])
    runs = TaskRuns(measured, own.runs, other.runs, "apart" if _num_seeds(own, other) >= MIN_SEEDS else "fixed")
    if not runs.are_on_same_units():
        raise StudyError(
            f"{own.source} and {other.source} were not scored on the same text of every test row. Was it truncated for "
            "one of the tokenizers? Raise data.max_length in both studies."
        )
    return runs.contrast({"arm": 1, "full": -1})


def _num_seeds(own: Best, other: Best) -> int:
    return min(len(own.runs), len(other.runs))


def _verdict(metric: str, pair: tuple[Best, Best], contrast: Contrast, error: float) -> BaseVerdict:
    own, other = pair
    found = contrast.interval(1 - error)
    blocked = tuple(f"{of.source}: {', '.join(of.withheld_by)}" for of in pair if of.withheld_by)
    is_open = found.low is None or found.high is None or found.low <= 0 <= found.high
    is_small = _num_seeds(own, other) < MIN_SEEDS or found.num_units < MIN_UNITS
    side: Literal["better", "worse"] = "better"
    if (found.estimate > 0) != measured_metric(metric, own.runs[0]).higher_is_better:
        side = "worse"
    verdict = BaseVerdict(
        source=own.source,
        against=other.source,
        base=own.base,
        against_base=other.base,
        arm=own.arm,
        against_arm=other.arm,
        metric=metric,
        difference=found.estimate,
        low=found.low,
        high=found.high,
        confidence=1 - error,
        num_seeds=(len(own.runs), len(other.runs)),
        num_units=found.num_units,
        outcome="undecided" if blocked or is_open or is_small else side,
        withheld_by=blocked,
        sentence="",
    )
    return verdict.replace(sentence=_sentence(verdict, len(own.runs[0].examples)))


def _sentence(verdict: BaseVerdict, num_rows: int) -> str:
    """'B with lora-r8 is better than A with full by 0.0340 bits per byte (95% CI 0.0155 to 0.0508). Based on ...'"""
    own, other = f"{verdict.base} with {verdict.arm}", f"{verdict.against_base} with {verdict.against_arm}"
    difference = Estimate(estimate=verdict.difference, low=verdict.low, high=verdict.high)
    size = wording.sized_estimate(verdict.metric, difference)
    head = {
        "better": f"{own} is better than {other}",
        "worse": f"{own} is worse than {other}",
        "undecided": f"Inconclusive whether {own} is better or worse than {other}",
    }[verdict.outcome]
    if verdict.withheld_by:
        head = f"Verdict on {own} and {other} withheld ({'; '.join(verdict.withheld_by)})"
        ends = wording.signed_interval(verdict.metric, difference)  # which of the two is better is withheld as well
        size = f"{wording.difference(verdict.metric, verdict.difference)} ({ends})"
    seeds, groups = " and ".join(map(str, verdict.num_seeds)), count(verdict.num_units, "group")
    return (
        f"{head}. Difference: {size} in {metric_named(verdict.metric).difference_unit}, at "
        f"{verdict.confidence * 100:.4g}% confidence. Based on {seeds} seeds, which are not paired, and "
        f"{count(num_rows, 'test row')} in {groups}."
    )
