"""Compare several studies in one table, a row per arm, if they measured the same thing; otherwise refuse."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import yaml
from rich.console import Console
from rich.text import Text

from tunewise.desk.report import wording
from tunewise.desk.report.terminal.text import print_rows
from tunewise.desk.report.views.view import Report
from tunewise.desk.statistics.paired import MetricSummary
from tunewise.errors import StudyError
from tunewise.spec import Frozen
from tunewise.text import numbers


class Row(Frozen):
    """One arm of one study, or one result of another suite. None: not known."""

    source: str
    arm: str
    metric: str
    quality: MetricSummary | None
    outcome: str | None  # vs. full fine-tuning, within its own study
    learning_rate: float | None
    trainable_parameters: int | None
    train_seconds: float | None
    peak_memory_bytes: int | None
    saved_bytes: int | None


class BaseVerdict(Frozen):
    """Whether a base with its best method is better than another one with its own, in units of the metric."""

    source: str  # the study's folder
    against: str
    base: str
    against_base: str
    arm: str  # the best one on the validation set
    against_arm: str
    metric: str
    difference: float  # the first minus the second, each the mean over seeds
    low: float | None  # of the two-sided interval at `confidence`, for new seeds and new units
    high: float | None
    confidence: float
    num_seeds: tuple[int, int]
    num_units: int
    outcome: Literal["better", "worse", "undecided"]
    withheld_by: tuple[str, ...]  # fairness rules that block one of the arms, by study
    sentence: str


class SideBySide(Frozen):
    """Rows that may be compared, and remarks on their limits."""

    rows: tuple[Row, ...]
    remarks: tuple[str, ...]
    bases: tuple[BaseVerdict, ...] = ()  # of studies with different bases (`bases.py`)


# What must be equal for two scores to be comparable.
SAME_MEASUREMENT: dict[str, Callable[[Report], Any]] = {
    "task": lambda report: report.study.task,
    "metric": lambda report: report.study.primary_metric,
    "base weights": lambda report: report.data.inputs.base,
    "tokenizer": lambda report: report.data.inputs.tokenizer,
    "data": lambda report: report.data.inputs.data,
    "library versions": lambda report: report.data.inputs.versions,
}

# What may differ, but could explain a difference between arms of different studies.
SAME_TREATMENT: dict[str, Callable[[Report], Any]] = {
    "training": lambda report: yaml.safe_load(report.study.resolved)["train"],
    "tuning": lambda report: yaml.safe_load(report.study.resolved)["tuning"],
    "seeds": lambda report: list(report.study.seeds),
    "precision": lambda report: report.data.precision,
    "device": lambda report: report.environment.device_name if report.environment else None,
    "threads": lambda report: report.data.threads,
}


def side_by_side(reports: Mapping[str, Report]) -> SideBySide:
    """The arms of all studies (folder -> report), if they were scored on the same data with the same base.

    Raises StudyError naming every difference that makes the scores incomparable.
    """
    if reasons := differences(reports, SAME_MEASUREMENT):
        raise StudyError(
            f"these studies cannot be compared, because they differ in what they measure: {'; '.join(reasons)}. "
            "Report them one by one, or run all arms on the same data and base."
        )
    remarks = [f"The studies differ in {reason}." for reason in differences(reports, SAME_TREATMENT)]
    rows = [row for source, report in reports.items() for row in rows_of(source, report, report.study.primary_metric)]
    return SideBySide(rows=tuple(rows), remarks=tuple(remarks))


def differences(reports: Mapping[str, Report], aspects: Mapping[str, Callable[[Report], Any]]) -> list[str]:
    """'metric (a: nll, b: accuracy)' for every aspect that differs between reports."""
    found = []
    for name, of in aspects.items():
        values = {source: of(report) for source, report in reports.items()}
        if len({json.dumps(value, sort_keys=True) for value in values.values()}) > 1:
            shown = ", ".join(f"{source}: {text}" for source, text in _shown(values).items())
            found.append(f"{name} ({shown})")
    return found


def _shown(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as text; for sections only the keys that differ, for hashes only the beginning."""
    if all(isinstance(value, dict) for value in values.values()):
        keys = {key for value in values.values() for key in value}
        differing = sorted(key for key in keys if len({str(value.get(key)) for value in values.values()}) > 1)
        return {
            source: " ".join(f"{key}={value.get(key)}" for key in differing) or "-" for source, value in values.items()
        }
    return {source: _short(value) for source, value in values.items()}


def _short(value: Any) -> str:
    text = str(value)
    is_hash = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return text[:8] if is_hash else text


def rows_of(source: str, report: Report, metric: str) -> list[Row]:
    """A row for every arm of a study, with its quality in a metric."""
    outcomes = {verdict.arm: verdict.outcome for verdict in report.verdicts}
    return [
        Row(
            source=source,
            arm=arm.name,
            metric=metric,
            quality=arm.metrics.get(metric),
            outcome=outcomes.get(arm.name),
            learning_rate=arm.learning_rate,
            trainable_parameters=arm.trainable_parameters,
            train_seconds=arm.train_seconds,
            peak_memory_bytes=arm.peak_memory_bytes,
            saved_bytes=arm.saved_bytes,
        )
        for arm in report.arms
    ]


# --- in the terminal


def print_side_by_side(together: SideBySide, console: Console) -> None:
    """Print rows and remarks; text from files is printed verbatim, never as markup."""
    columns = ("arm", "quality", "verdict", "trained", "time, disk")
    print_rows(
        console, "comparison of studies", columns, [_cells(row) for row in together.rows], _caption(together.rows)
    )
    for verdict in together.bases:
        console.print(Text(verdict.sentence, style="bold"))
    for remark in together.remarks:
        console.print(Text(f"- {remark}"))


def _cells(row: Row) -> tuple[Text, ...]:
    quality = Text(wording.figure(row.metric, row.quality.mean if row.quality else None), style="bold")
    interval = wording.interval(row.metric, row.quality)
    if interval != numbers.MISSING:
        quality.append(f"\n{interval}", style="not bold dim")
    trained = Text(numbers.count(row.trainable_parameters))
    if row.learning_rate is not None:
        trained.append(f"\nat rate {numbers.rate(row.learning_rate)}", style="not bold dim")
    return (
        Text(row.arm).append(f"\n{row.source}", style="not bold dim"),
        quality,
        Text(wording.OUTCOMES[row.outcome] if row.outcome else numbers.MISSING),
        trained,
        Text(numbers.duration(row.train_seconds)).append(f"\n{numbers.size(row.saved_bytes)}", style="not bold dim"),
    )


def _caption(rows: Sequence[Row]) -> str:
    return (
        f"quality: {', '.join(dict.fromkeys(row.metric for row in rows))} on the test set; verdicts hold within a study"
    )
