"""The report in the terminal: answer, evidence, arms, a sample, warnings, advice. Fits 80 columns or fewer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tunewise.desk.fairness.finding import Finding
from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import rows as rows_module
from tunewise.desk.report import wording
from tunewise.desk.report.lessons import NONE
from tunewise.desk.report.terminal.tables import MAX_NAME_WIDTH, print_table
from tunewise.desk.report.views.advice_view import Alternative
from tunewise.desk.report.views.capacity_view import LowRankView, PlacementView, RankView
from tunewise.desk.report.views.view import ArmView, Report, SampleView, VerdictView
from tunewise.text import numbers

OUTCOME_STYLES = {"as good": "green", "better": "blue", "worse": "red", "undecided": "yellow"}
SEVERITY_STYLES = {"blocks": "bold red", "warns": "yellow", "note": "dim"}
MIN_TABLE_WIDTH = 78  # columns; below it every row becomes a block of lines
MAX_SAMPLES = 1  # the page shows all
MAX_SAMPLE_CHARACTERS = 400
MAX_SAMPLE_LINES = 6


def print_report(report: Report, console: Console, folder: Path, lessons: Mapping[str, str] = NONE) -> None:
    """Print the report of the study in `folder`, with the `lessons` that explain its sections.

    Text from data and models is printed as it is, never as markup.
    """

    def explain(section: str) -> None:
        if section in lessons:
            console.print(Padding(Text(lessons[section], style="cyan"), (1, 0, 1, 2)))

    console.print(Text(f"\n{report.study.question}", style="dim"))
    console.print(Text(report.headline, style="bold"))
    if report.recommended_arm:
        console.print(Text(wording.recommendation(report.recommended_arm, report.study.cost)))
    explain("answer")
    for verdict in report.verdicts:
        if verdict.arm != report.study.reference_arm:
            console.print(Padding(Text(f"- {verdict.sentence}"), (0, 0, 0, 2)))
            if verdict.secondary_sentence:
                console.print(Padding(Text(verdict.secondary_sentence, style="dim"), (0, 0, 0, 4)))
    if report.verdicts:
        _print_verdicts(report, console)
    for section, view, draw in _sections(report):
        explain(section)
        draw(view, console)
    if report.advice:
        explain("advice")
        print_advice(report, console)
    console.print(Text.assemble("\nreport: ", (str(folder / "report.html"), "bold")), soft_wrap=True)


def _sections(report: Report) -> Iterator[tuple[str, Any, Callable[[Any, Console], None]]]:
    """What follows the verdicts, in order: the lesson's name, what is shown, and the function that prints it."""
    if any(arm.metrics for arm in report.arms):
        yield "arms", report, _print_arms
    yield from (("ranks", view, _print_ranks) for view in report.capacity.ranks)
    yield from (("placements", view, _print_placements) for view in report.capacity.placements)
    if report.capacity.low_rank:
        yield "low_rank", report.capacity.low_rank, _print_low_rank
    yield from (("samples", sample, _print_sample) for sample in report.samples[:MAX_SAMPLES])
    if report.warnings:
        yield "findings", report.warnings, print_findings


def _print_verdicts(report: Report, console: Console) -> None:
    metric = metric_named(report.study.primary_metric)
    columns = ("arm", "verdict", f"{metric.label} vs. full", "gain\nkept", "time", "disk")
    rows = [_verdict_cells(verdict, report.arm(verdict.arm)) for verdict in report.verdicts]
    caption = (
        f"difference in {metric.difference_unit}; {wording.sign_meaning(metric.name)}; margin: {report.study.margin}"
    )
    print_rows(console, f"compared with {report.study.full_arm}", columns, rows, caption)
    if reason := wording.centre(metric.name):
        console.print(Text(reason, style="dim"))
    if report.study.full_within_margin_after is not None:
        console.print(Text(wording.within_margin(report.study.full_within_margin_after), style="dim"))
    for verdict in report.verdicts:
        if line := wording.smallest_margin(verdict):
            console.print(Text(line, style="dim"))
        if verdict.pigeonhole:
            ends = wording.signed_interval(verdict.metric, verdict.pigeonhole)
            console.print(Text(f"{verdict.arm}: cross-check by pigeonhole bootstrap: {ends}", style="dim"))


def _verdict_cells(verdict: VerdictView, arm: ArmView) -> tuple[Text, ...]:
    # the headline names the rules that block; their ids are too long for this column
    named = "blocked" if verdict.blocked_by else verdict.reason
    reason = wording.REASONS[named] if named and named != "interval" else None
    kept = verdict.gain_kept.estimate if verdict.gain_kept else None
    return (
        Text(verdict.arm),
        _cell(wording.OUTCOMES[verdict.outcome], reason, f"bold {OUTCOME_STYLES[verdict.outcome]}"),
        _cell(wording.difference(verdict.metric, verdict.difference), wording.signed_interval(verdict.metric, verdict)),
        Text(numbers.share(kept)),
        Text(numbers.ratio(arm.ratio_to_full["train_seconds"])),
        Text(numbers.ratio(arm.ratio_to_full["saved_bytes"])),
    )


def _print_arms(report: Report, console: Console) -> None:
    name = report.study.primary_metric
    columns = ("arm", metric_named(name).label, "trained", "time", "tokens/s", "memory", "disk")
    rows = [_arm_cells(arm, name) for arm in report.arms]
    quality = wording.metric_title(name, report.study.task)
    caption = f"{quality} on the test set; costs are medians of confirmed runs, with the ratio to full"
    print_rows(console, "arms", columns, rows, caption)
    for line in filter(None, (rows_module.costs(report), rows_module.planned(report))):
        console.print(Text(line, style="dim"))


def _arm_cells(arm: ArmView, metric: str) -> tuple[Text, ...]:
    quality = arm.metrics.get(metric)

    def cost(text: str, name: str) -> Text:
        ratio = arm.ratio_to_full[name]
        return _cell(text, None if ratio is None else numbers.ratio(ratio))

    percent = None if arm.trainable_percent is None else numbers.percent(arm.trainable_percent)
    return (
        Text(arm.name) if arm.fits_in_memory else _cell(arm.name, "out of memory"),
        Text(wording.figure(metric, quality.mean if quality else None), style="bold"),
        _cell(numbers.count(arm.trainable_parameters), percent),
        cost(numbers.duration(arm.train_seconds), "train_seconds"),
        cost(numbers.speed(arm.tokens_per_second).removesuffix(" /s"), "tokens_per_second"),
        cost(numbers.size(arm.peak_memory_bytes), "peak_memory_bytes"),
        cost(numbers.size(arm.saved_bytes), "saved_bytes"),
    )


def _cell(text: str, below: str | None, style: str = "") -> Text:
    cell = Text(text, style=style)
    return cell.append(f"\n{below}", style="not bold dim") if below else cell


def print_rows(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[tuple[Text, ...]], caption: str
) -> None:
    """Print a table if there is room for it, else every row as a block of lines."""
    console.print()
    if console.width < MIN_TABLE_WIDTH:
        console.print(Text(title, style="italic"))
        for first, *others in rows:
            console.print(Text(first.plain, style="bold"))
            for column, cell in zip(columns[1:], others, strict=True):
                console.print(Text(f"  {' '.join(column.split())}: {', '.join(cell.plain.splitlines())}"))
        console.print(Text(caption, style="dim"))
        return
    table = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    longest = max(len(line) for row in rows for line in row[0].plain.splitlines())
    table.add_column(columns[0], overflow="fold", min_width=min(longest, MAX_NAME_WIDTH))
    for column in columns[1:]:
        is_text = column == "verdict"  # the reason below it may wrap, numbers may not
        table.add_column(column, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for row in rows:
        table.add_row(*row)
    print_table(table, console)


def _print_ranks(view: RankView, console: Console) -> None:
    columns = ("rank", "truncated", "within", "spread", "trained")
    rows = [
        (
            _cell(f"{row.rank}{' (candidate)' if row.rank == view.candidate else ''}", row.parameters),
            _cell(row.value, row.difference),
            Text(row.within),
            _cell(row.spread, row.spread_within),
            _cell(row.trained, row.seeds),
        )
        for row in rows_module.rank_rows(view)
    ]
    print_rows(console, f"which rank: {view.arm} on the validation set", columns, rows, view.words)


def _print_placements(view: PlacementView, console: Console) -> None:
    columns = ("targets", "rank", "parameters", metric_named(view.metric).label, "difference")
    rows = [
        (
            Text(point.targets),
            Text(str(point.rank)),
            Text(numbers.count(point.parameters)),
            Text(wording.figure(view.metric, point.value)),
            _cell(
                wording.difference(view.metric, point.difference.estimate if point.difference else None),
                wording.signed_interval(view.metric, point.difference) if point.difference else None,
            ),
        )
        for point in view.points
    ]
    print_rows(console, "which modules, at equal parameter budget: on the test set", columns, rows, view.words)


def _print_low_rank(view: LowRankView, console: Console) -> None:
    columns = ("adapter", f"extracted from {view.arm}", "margin", "trained", "margin")
    rows = [
        (
            Text(row.adapter),
            _cell(row.cut, row.cut_difference),
            Text(row.cut_state),
            _cell(row.trained, row.trained_difference if row.arm else None),
            Text(row.trained_state),
        )
        for row in rows_module.extracted_rows(view)
    ]
    print_rows(console, "is a low rank enough? on the validation set", columns, rows, view.words)
    for cause in view.causes:
        console.print(Text(f"\n{cause}"))


def print_advice(report: Report, console: Console) -> None:
    """Print the recommendation, the cost of each alternative, and the limits of the study."""
    advice = report.advice
    if advice is None:
        return
    console.print(Text("\nadvice", style="italic"))
    if advice.arm is None:
        console.print(Text(advice.items[0].reason))
    for item in advice.items if advice.arm else ():
        console.print(Text.assemble((f"{item.topic}: ", "bold"), (item.say or "no recommendation", "bold")))
        runs = f" ({wording.cited(item.runs)})" if item.runs else ""
        console.print(Padding(Text(item.reason).append(runs, style="dim"), (0, 0, 0, 2)))
    if advice.alternatives:
        columns = ("arm", "trained", "time", "memory", "disk")
        print_rows(console, "alternatives", columns, [_alternative_cells(one) for one in advice.alternatives], "")
    for one in advice.alternatives:
        console.print(Text(f"{one.arm}: {one.standing}"))
    if advice.missing:
        console.print(Text("\nlimits of this study", style="italic"))
    for text in advice.missing:
        console.print(Padding(Text(f"- {text}"), (0, 0, 0, 2)))


def _alternative_cells(one: Alternative) -> tuple[Text, ...]:
    return (
        Text(one.arm),
        Text(numbers.count(one.trainable_parameters)),
        Text(numbers.duration(one.train_seconds)),
        Text(numbers.size(one.peak_memory_bytes)),
        Text(numbers.size(one.saved_bytes)),
    )


def _print_sample(sample: SampleView, console: Console) -> None:
    console.print(Text("\na test prompt and the outputs", style="italic"))
    for name, text in {"prompt": sample.prompt, "reference": sample.reference, **sample.outputs}.items():
        console.print(Text(name, style="bold"))
        console.print(Padding(Text(_shortened(text.strip())), (0, 0, 0, 2)))


def _shortened(text: str) -> str:
    kept = "\n".join(text[:MAX_SAMPLE_CHARACTERS].splitlines()[:MAX_SAMPLE_LINES])
    return kept if kept == text else f"{kept} …"


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print severity, sentence and evidence of every finding; nothing if there is none."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for finding in findings:
        sentence = Text(finding.sentence).append(f" ({finding.evidence})", style="dim")
        grid.add_row(Text(finding.severity, style=SEVERITY_STYLES[finding.severity]), sentence)
    if findings:
        console.print()
        console.print(grid)
