"""What `tunewise check` shows: data, what is trained on, what each arm trains, what the study can resolve."""

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunewise.desk.fairness import check_before
from tunewise.desk.metrics import primary_metric
from tunewise.desk.power import ASSUMED_UNIT_SD, chance_of_as_good, smallest_margin
from tunewise.desk.report.text import print_findings
from tunewise.desk.schedule import centre, num_steps
from tunewise.desk.search import first_places, grid_rate
from tunewise.records import DataLaw, DataSummary, LawCount
from tunewise.spec import DEFAULT_MARGINS, BaseMethod, ExistingMethod, StudySpec, parse_margin

State = Literal["ok", "look", "refused"]
STATE_COLOURS: dict[State, str] = {"ok": "green", "look": "yellow", "refused": "red"}
MAX_SHOWN = 3
LAWS: dict[DataLaw, str] = {
    "supervised": "nothing to train on, dropped",
    "truncation": "too long, cut or dropped",
    "end-of-text": "whole answer without the end-of-text label, so a model may not stop",
    "duplicates": "input also in a split that is held out from this one",
    "boundary": "as one string, a token would lie across prompt and answer",
}


def print_check(checked: tuple[StudySpec, DataSummary], console: Console) -> None:
    """Print a resolved study and its prepared data."""
    study, data = checked
    console.print(
        f"[bold]{study.name}[/bold]: model {study.model} ({data.model_type}), task {data.task}, "
        f"{data.device} {data.precision}, {data.threads} threads"
    )
    console.print(_splits(data))
    if data.laws:
        console.print(_laws(study, data))
    for note in data.notes:
        console.print(f"- {note}", markup=False, highlight=False)
    console.print("\nThe first training example (what is trained on is green):")
    console.print(f"{escape(data.example_prompt)}[green]{escape(data.example_supervised)}[/green]", highlight=False)
    console.print(_arms(study, data))
    console.print(resolution(study, data), markup=False, highlight=False)
    print_findings(check_before(study, data), console)


def _splits(data: DataSummary) -> Table:
    names = ("split", "rows", "units", "tokens", "supervised", "rows cut", "tokens cut", "duplicates dropped")
    table = _table("data", names)
    for s in data.splits:
        figures = (s.rows, s.units, s.tokens, s.supervised_tokens, s.truncated_rows, s.truncated_tokens)
        table.add_row(s.split, *(f"{figure:,}" for figure in figures), f"{s.duplicates_dropped:,}")
    return table


def _laws(study: StudySpec, data: DataSummary) -> Table:
    """One line per law that concerns the data: ok (nothing found), look (found), refused (no verdict with it)."""
    table = _table("data laws", ("law", "", "found", "rows to look at"))
    table.columns[1].justify = table.columns[2].justify = table.columns[3].justify = "left"
    for law in LAWS:
        counts = [count for count in data.laws if count.law == law]
        if not counts:
            continue
        state = judge(law, counts, study)
        shown = [example for count in counts for example in count.examples][:MAX_SHOWN]
        table.add_row(
            law, f"[{STATE_COLOURS[state]}]{state}[/]", _found(law, counts, study, data), escape(" ".join(shown))
        )
    return table


def judge(law: DataLaw, counts: Sequence[LawCount], study: StudySpec) -> State:
    """ok: nothing found; look: found, and dealt with as the line says; refused: no verdict as long as it is so."""
    if not any(count.count for count in counts):
        return "ok"
    return "refused" if law == "duplicates" and study.data.duplicates == "keep" else "look"


def _found(law: DataLaw, counts: Sequence[LawCount], study: StudySpec, data: DataSummary) -> str:
    parts = [f"{count.count:,} of {count.of:,} in {count.split}" for count in counts if count.count]
    where = ", ".join(parts) or f"none of {sum(count.of for count in counts):,} rows"
    sentence = f"{where}: {LAWS[law]}"
    if law == "supervised":
        shares = (f"{s.supervised_tokens / s.tokens:.1%} of {s.split}" for s in data.splits)
        return f"{sentence}; tokens learnt: {', '.join(shares)}"
    if law == "truncation" and parts:
        lost = sum(s.truncated_tokens for s in data.splits)
        return f"{sentence}; {lost:,} {'answer ' if data.task == 'sft' else ''}tokens lost"
    if law == "duplicates" and parts:
        return f"{sentence}; {'kept, so no verdict' if study.data.duplicates == 'keep' else 'dropped'}"
    return sentence


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, caption_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right")
    return table


def _arms(study: StudySpec, data: DataSummary) -> Table:
    table = _table("arms", ("arm", "trainable", "of", "%", "linear layers covered", "scale", "first rates"))
    for name, method in study.arms.items():
        if isinstance(method, ExistingMethod | BaseMethod) or name not in data.arms:
            table.add_row(name, "-", "-", "-", "-", "-", "scored only" if method.method == "existing" else "-")
            continue
        tuned, middle = data.arms[name], centre(study, data, method)
        rates = method.rates or [grid_rate(study.tuning, middle, place) for place in first_places(study.tuning)]
        table.add_row(
            name,
            f"{tuned.trainable_parameters:,}",
            f"{tuned.total_parameters:,}",
            f"{100 * tuned.trainable_parameters / tuned.total_parameters:.4f}",
            "-" if tuned.linear_share is None else f"{tuned.num_target_modules} modules, {tuned.linear_share:.0%}",
            "-" if tuned.scale is None else f"{tuned.scale:g}",
            " ".join(f"{rate:g}" for rate in rates),
        )
    table.caption = (
        f"{num_steps(study, data):,} optimizer steps a run; weight decay {study.train.weight_decay:g} on matrices, "
        "none on biases and norms, in every arm"
    )
    return table


def resolution(study: StudySpec, data: DataSummary) -> str:
    """One sentence: the smallest margin that this test set and these seeds can resolve, and the declared one."""
    metric = primary_metric(data.task, study.primary)
    if metric not in ASSUMED_UNIT_SD:
        return f"Which margin in {metric} this test set resolves is not known before the runs."
    units, seeds = data.split("test").units, study.looks[-1]
    spread = ASSUMED_UNIT_SD[metric]
    smallest = smallest_margin(units, seeds, spread)
    declared = DEFAULT_MARGINS[metric] if study.margin is None else parse_margin(study.margin)
    sentence = (
        f"Smallest margin that {units:,} test units and {seeds} seeds resolve (80 % power, arms truly equal, "
        f"assuming a standard deviation of {spread:g} between units): {smallest:.3g} in {metric}."
    )
    if declared.absolute is None:
        return f"{sentence} Your margin is a share of full's gain, which only the runs can tell."
    if smallest <= declared.absolute:
        return f"{sentence} Your margin is {declared.absolute:g}."
    chance = chance_of_as_good(units, seeds, spread, declared.absolute)
    another = ", or judge by NLL (primary: nll), which says more of each row" if data.task == "classify" else ""
    return (
        f"{sentence} Your margin is {declared.absolute:g}: such a study says 'as good' in {chance:.0%} of cases only. "
        f"Add test data, widen the margin before the runs{another}."
    )
