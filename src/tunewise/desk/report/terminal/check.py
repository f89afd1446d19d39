"""Terminal output of `tunewise check`: data, trained-on text, arms, and the smallest margin the study resolves."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tunewise.desk.fairness import check_before
from tunewise.desk.metrics.metrics import primary_metric
from tunewise.desk.planning import estimates
from tunewise.desk.planning.prices import with_costs
from tunewise.desk.protocol.centres import centre
from tunewise.desk.protocol.schedule import num_steps
from tunewise.desk.protocol.search import first_places, grid_rate
from tunewise.desk.report import wording
from tunewise.desk.report.terminal.tables import print_table
from tunewise.desk.report.terminal.text import print_findings
from tunewise.desk.report.terminal.times import at_least, study_cost, study_duration
from tunewise.desk.statistics.power import (
    MIN_SEEDS,
    MIN_UNITS,
    assumed_unit_sd,
    chance_of_as_good,
    smallest_margin,
    strictest_level,
)
from tunewise.errors import clause
from tunewise.records import DataLaw, DataSummary, LawCount, TrainableSummary
from tunewise.records.plan import StudyPlan
from tunewise.spec import TASKS
from tunewise.spec.resolved import ResolvedStudy
from tunewise.text import numbers

State = Literal["ok", "look", "refused"]
STATE_COLOURS: dict[State, str] = {"ok": "green", "look": "yellow", "refused": "red"}
MAX_SHOWN = 3
LAWS: dict[DataLaw, str] = {
    "supervised": "rows with nothing to train on",
    "truncation": "rows that are too long",
    "end-of-text": "complete answers without the end-of-text token, so a model may not stop",
    "duplicates": "inputs that are also in a held-out split",
    "boundary": "rows in which a token would span prompt and answer if they were one text",
}
IN_THE_TABLE = ("truncated-rows", "duplicates-dropped")  # findings that the checks of the data already report
NUMBERS = {
    "rows",
    "units",
    "tokens",
    "trained\non",
    "rows\ntruncated",
    "tokens\nlost",
    "dropped",
    "trainable",
    "%",
    "modules",
}
MAX_PARTS = 8  # of the example
MAX_PART_CHARACTERS = 600


class Checked(NamedTuple):
    """A study before anything is trained."""

    study: ResolvedStudy
    data: DataSummary
    plan: StudyPlan | None  # None: planning failed, or has not been done yet
    remarks: tuple[str, ...] = ()  # what the plan lacks, or what would prevent the runs


def print_check(checked: Checked, console: Console) -> None:
    """Print a resolved study, its prepared data, and its expected time and memory."""
    print_known(checked, console)
    print_planned(checked, console)


def print_planned(checked: Checked, console: Console) -> None:
    """Print the expected memory and time of the arms, which take longer to compute than the rest."""
    for line in expected(checked.study, checked.plan) if checked.plan else ():
        console.print(line, markup=False, highlight=False)
    print_remarks(checked, console)


def print_remarks(checked: Checked, console: Console) -> None:
    """Print the remarks, one per line."""
    for remark in checked.remarks:
        console.print(f"- {remark}", markup=False, highlight=False)


def print_known(checked: Checked, console: Console) -> None:
    """Print what is known before planning: data, the first example, arms, findings."""
    study, data = checked.study, checked.data
    model = f": model {numbers.short_path(study.model)} ({data.model_type}), task {data.task}, "
    machine = f"{data.device} {data.precision}, {numbers.threads(data.threads)}"
    console.print(Text.assemble((study.name, "bold"), model, machine))
    print_table(_splits(data), console)
    if data.laws:
        print_table(_laws(study, data), console)
    for note in data.notes:
        console.print(f"- {note}", markup=False, highlight=False)
    console.print("\nThe first training example. The text trained on is green, between » and «:")
    console.print(_example(data), highlight=False)
    print_table(_arms(study, data), console)
    console.print(resolution(study, data), markup=False, highlight=False)
    findings = check_before(study, data)
    print_findings([f for f in findings if not data.laws or f.id not in IN_THE_TABLE], console)


def expected(study: ResolvedStudy, plan: StudyPlan) -> Iterator[str]:
    """A line for every planned arm and one for the study: memory of a step, whether it fits, time."""
    for name, arm in plan.arms.items():
        if arm.step is None:
            yield f"Planned, {name}: {clause(str(arm.note))}."
            continue
        room = f"{estimates.fit(arm, plan.memory_bytes)} in {numbers.size(plan.memory_bytes)}"
        seconds = at_least(numbers.duration(arm.speed.step_seconds if arm.speed else None), arm)
        time = f", {seconds} per step" if arm.speed else ""
        yield f"Planned, {name}: {numbers.size(arm.step.total)} peak per step ({room}){time}."
    if whole := estimates.study_seconds(study, plan):
        costs = with_costs(plan.replace(seconds=whole), study.machine.price).costs
        cost = f" ({study_cost(costs, plan)})" if costs else ""
        yield f"Planned, the whole study: {study_duration(whole, plan)}{cost}. Details: tunewise plan."


def _example(data: DataSummary) -> Text:
    parts = wording.example_parts(data)
    text = Text()
    for part, is_trained_on in parts[:MAX_PARTS]:
        half = MAX_PART_CHARACTERS // 2
        shown = part if len(part) <= MAX_PART_CHARACTERS else f"{part[:half]} … {part[-half:]}"
        text.append(f"»{shown}«" if is_trained_on else shown, "green" if is_trained_on else "")
    if len(parts) > MAX_PARTS:
        text.append(f"\n… and {len(parts) - MAX_PARTS} more parts, alternately read and trained on")
    return text


def _splits(data: DataSummary) -> Table:
    names = ("split", "rows", "units", "tokens", "trained\non", "rows\ntruncated", "tokens\nlost", "dropped")
    table = _table("data", names)
    for s in data.splits:
        figures = (s.rows, s.units, s.tokens, s.supervised_tokens, s.truncated_rows, s.truncated_tokens)
        table.add_row(s.split, *(f"{figure:,}" for figure in figures), f"{s.duplicates_dropped:,}")
    table.caption = (
        "units: groups of related rows; trained on: tokens; dropped: rows whose input is also in a held-out split"
    )
    return table


def _laws(study: ResolvedStudy, data: DataSummary) -> Table:
    """One line per data check: ok (nothing found), look (found), refused (no verdict)."""
    table = _table("data checks", ("check", "", "found"))
    table.columns[1].justify = table.columns[2].justify = "left"
    for law in LAWS:
        counts = [count for count in data.laws if count.law == law]
        if not counts:
            continue
        state = judge(law, counts, study)
        shown = [example for count in counts for example in count.examples][:MAX_SHOWN]
        found = "; ".join([*_found(law, counts, study, data), *([f"see {' '.join(shown)}"] if shown else [])])
        table.add_row(law, f"[{STATE_COLOURS[state]}]{state}[/]", escape(found))
    return table


def judge(law: DataLaw, counts: Sequence[LawCount], study: ResolvedStudy) -> State:
    """ok: nothing found; look: found, and handled as the line says; refused: no verdict until it is fixed."""
    if not any(count.count for count in counts):
        return "ok"
    return "refused" if law == "duplicates" and study.data.duplicates == "keep" else "look"


def _found(law: DataLaw, counts: Sequence[LawCount], study: ResolvedStudy, data: DataSummary) -> Iterator[str]:
    parts = [f"{count.count:,} of {count.of:,} in {count.split}" for count in counts if count.count]
    yield f"{LAWS[law]}: {', '.join(parts) or f'none of {sum(count.of for count in counts):,}'}"
    if law == "supervised" and parts:
        yield "dropped"
    if law == "supervised":
        shares = (f"{s.supervised_tokens / s.tokens:.1%} of {s.split}" for s in data.splits)
        yield f"tokens trained on: {', '.join(shares)}"
    if law == "truncation" and parts:
        lost = sum(s.truncated_tokens for s in data.splits)
        yield f"{lost:,} {'answer ' if data.task == 'sft' else ''}tokens lost"
    if law == "duplicates" and parts:
        yield "kept, so no verdict" if study.data.duplicates == "keep" else "dropped"


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right", overflow="fold", no_wrap=name in NUMBERS)
    return table


def _arms(study: ResolvedStudy, data: DataSummary) -> Table:
    table = _table("arms", ("arm", "trainable", "%", "modules", "linear", "scale", "first rates"))
    for name in study.arms:
        method = study.trained_arms.get(name)
        if method is None:
            table.add_row(name, "-", "-", "-", "-", "-", "scored only")
            continue
        rates = method.rates or [
            grid_rate(study.tuning, centre(study, data, method), place) for place in first_places(study.tuning)
        ]
        table.add_row(name, *_tuned_cells(data.arms.get(name)), " ".join(f"{rate:g}" for rate in rates))
    table.caption = (
        "linear: share of the body's weights (including experts and convolutions) in these modules\n"
        f"{num_steps(study, data):,} optimizer steps per run; weight decay {study.train.weight_decay:g} on matrices, "
        "none on biases and norms, in every arm"
    )
    return table


def _tuned_cells(tuned: TrainableSummary | None) -> tuple[str, ...]:
    """trainable, %, modules, linear, scale; dashes for the head arm that is added if a new head needs a rate."""
    if tuned is None:
        return ("-",) * 5
    return (
        f"{tuned.trainable_parameters:,}",
        f"{100 * tuned.trainable_parameters / tuned.total_parameters:.3g}",
        "-" if tuned.num_target_modules is None else str(tuned.num_target_modules),
        "-" if tuned.linear_share is None else f"{tuned.linear_share:.0%}",
        "-" if tuned.scale is None else f"{tuned.scale:g}",
    )


def resolution(study: ResolvedStudy, data: DataSummary) -> str:
    """The smallest margin that this test set and these seeds can resolve, compared with the declared one."""
    metric = primary_metric(data.task, study.primary)
    spread = assumed_unit_sd(metric, TASKS[data.task].has_classes)
    if spread is None:
        return f"The smallest margin in {metric} that this test set resolves is not known before the runs."
    units, seeds, level = (
        data.split("test").units,
        study.looks[-1],
        strictest_level(study.num_comparisons),
    )
    smallest = smallest_margin(units, seeds, spread, level=level)
    if math.isinf(smallest):
        return (
            f"{units:,} test units and {seeds} seeds resolve no margin: a verdict needs at least {MIN_UNITS} units and "
            f"{MIN_SEEDS} seeds."
        )
    declared = study.margin_in(metric)
    sentence = (
        f"Smallest margin that {units:,} test units and {seeds} seeds can resolve: {smallest:.3g} in {metric}. This "
        f"assumes 80% power, equal arms, and a standard deviation of {spread:g} between units."
    )
    if declared.absolute is None:
        return f"{sentence} Your margin is a share of full's gain, which is not known before the runs."
    if smallest <= declared.absolute:
        return f"{sentence} Your margin is {declared.absolute:g}."
    chance = chance_of_as_good(units, seeds, spread, declared.absolute, level)
    another = (
        ", or judge by NLL (primary: nll), which uses more information per row" if TASKS[data.task].has_classes else ""
    )
    return (
        f"{sentence} Your margin is {declared.absolute:g}, so equal arms would be found 'as good' with probability "
        f"{chance:.0%} only. Add test data, widen the margin before the runs{another}."
    )
