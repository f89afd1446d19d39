"""Rows of the report's tables as text."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tunewise.desk.analysis.curves import ToQuality
from tunewise.desk.fairness.finding import Finding, Severity
from tunewise.desk.report.views.capacity_view import LowRankView, RankView
from tunewise.desk.report.views.view import ArmView, Report
from tunewise.desk.report.wording import STATES, figure, signed_interval
from tunewise.spec import TASKS, Task
from tunewise.text import numbers
from tunewise.text.numbers import MISSING, count, duration, percent, ratio, size


class PlannedRow(NamedTuple):
    """One arm as planned and as measured."""

    arm: str
    train_seconds: tuple[str, str]  # planned, then measured over planned
    above_start_bytes: tuple[str, str]
    step_bytes: str


def planned_rows(report: Report) -> list[PlannedRow]:
    """Planned time and memory of every planned arm, with the measured values relative to them."""
    return [
        PlannedRow(
            arm=arm.name,
            train_seconds=(duration(arm.planned.train_seconds), _over(arm.train_seconds, arm.planned.train_seconds)),
            above_start_bytes=(
                size(arm.planned.above_start_bytes),
                _over(arm.peak_memory_above_start_bytes, arm.planned.above_start_bytes),
            ),
            step_bytes=size(arm.planned.step_bytes),
        )
        for arm in report.arms
        if arm.planned
    ]


def _over(measured: float | None, planned: float | None) -> str:
    """'measured 1.08×' of the plan; empty if one of the two is missing."""
    return "" if measured is None or not planned else f"measured {ratio(measured / planned)}"


def planned(report: Report) -> str:
    """One line on planned and measured time and memory; empty if nothing was planned."""
    parts = [
        f"{row.arm} {row.train_seconds[0]} per run ({row.train_seconds[1] or 'not run'}), {row.above_start_bytes[0]} "
        f"({row.above_start_bytes[1] or 'not measured'})"
        for row in planned_rows(report)
    ]
    return f"planned: {'; '.join(parts)}" if parts else ""


def money(report: Report, cost: float | None) -> str:
    """A cost in the currency of the study's price."""
    return numbers.money(cost, report.study.price.currency if report.study.price else None)


def costs(report: Report) -> str:
    """One line on the costs of a training of each arm and of the whole study; empty if no price was given."""
    price = report.study.price
    if price is None:
        return ""
    arms = ", ".join(f"{arm.name} {money(report, arm.train_cost)}" for arm in report.tuned_arms())
    total = f"all {report.study.finished_runs} runs so far" if not report.is_complete else "all runs of the study"
    return (
        f"cost at {money(report, price.per_hour)} per hour: one training of {arms}; {total}, with loading and scoring, "
        f"{money(report, report.study.run_cost)}"
    )


class RankRow(NamedTuple):
    """One rank in the table of a rank curve."""

    rank: int
    parameters: str
    value: str  # after truncation to it, with its difference from the highest rank ...
    difference: str
    within: str  # ... and whether that is within the margin
    spread: str  # its parameters spread over the modules ...
    spread_within: str
    trained: str  # trained directly, mean over so many seeds
    seeds: str


def rank_rows(view: RankView) -> list[RankRow]:
    """A row for every rank that was truncated to or trained; missing values are dashes."""
    cut, spread = ({p.rank: p for p in view.points if p.spread == kind} for kind in (False, True))
    direct = {point.rank: point for point in view.direct if point.value is not None}
    rows = []
    for rank in sorted({*cut, *direct}):
        point, trained = cut.get(rank), direct.get(rank)
        parameters = point.parameters if point else trained.parameters if trained else None
        shared = spread.get(rank)
        row = RankRow(
            rank=rank,
            parameters=count(parameters),
            value=figure(view.metric, point.value if point else None),
            difference=signed_interval(view.metric, point.difference if point else None),
            within=MISSING if point is None else "yes" if point.within else "no",
            spread=figure(view.metric, shared.value if shared else None),
            spread_within="" if shared is None else "within" if shared.within else "not within",
            trained=figure(view.metric, trained.value if trained else None),
            seeds=f"{trained.num_seeds} seeds" if trained else "",
        )
        rows.append(row)
    return rows


class ExtractedRow(NamedTuple):
    """One row in the table of adapters extracted from full fine-tuning."""

    adapter: str
    cut: str
    cut_difference: str
    cut_state: str
    trained: str
    arm: str
    trained_difference: str
    trained_state: str


def extracted_rows(view: LowRankView) -> list[ExtractedRow]:
    """A row for every extracted adapter, the whole change of its targets last."""
    return [
        ExtractedRow(
            adapter=f"{one.targets}, {'whole change' if one.rank is None else f'rank {one.rank}'}",
            cut=figure(view.metric, one.cut.value),
            cut_difference=signed_interval(view.metric, one.cut.difference),
            cut_state=STATES[one.cut.state],
            trained=figure(view.metric, one.trained.value if one.trained else None),
            arm=one.arm or "",
            trained_difference=signed_interval(view.metric, one.trained.difference if one.trained else None),
            trained_state=STATES[one.trained.state] if one.trained else "",
        )
        for one in view.extracted
    ]


def capacity(arm: ArmView, task: Task) -> str:
    """Trainable share and parameters per target: '0.749%, 1.4 per supervised token'."""
    if arm.trainable_percent is None or arm.parameters_per_target is None:
        return ""
    target = TASKS[task].target
    each = arm.parameters_per_target
    return f"{percent(arm.trainable_percent)}, {f'{each:,.0f}' if each >= 100 else f'{each:.3g}'} per {target}"


def reached(found: ToQuality | None) -> str:
    """'step 61, 5 of 5 runs'."""
    if found is None:
        return ""
    return f"step {found.steps:.0f}, {found.reached} of {found.runs} runs"


FOUND: dict[Severity, tuple[str, str]] = {
    "blocks": ("blocks a verdict", "block a verdict"),
    "warns": ("warning", "warnings"),
    "note": ("note", "notes"),
}


def by_severity(findings: Sequence[Finding]) -> str:
    """'2 warnings, 1 note'."""
    counts = Counter(finding.severity for finding in findings)
    return ", ".join(f"{counts[kind]} {names[counts[kind] > 1]}" for kind, names in FOUND.items() if counts[kind])
