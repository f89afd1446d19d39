"""The plan in the terminal, one column per arm, and as a chart of peak memory by use."""

from collections.abc import Callable, Iterator, Sequence

import altair as alt
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.desk.fairness.finding import listed
from tunewise.desk.planning import estimates
from tunewise.desk.planning.expected import expected_runs, later_looks
from tunewise.desk.planning.fitting import what_fits
from tunewise.desk.planning.gpus import Gpu
from tunewise.desk.planning.prices import epoch_cost
from tunewise.desk.protocol.resolve import resolve_as_planned
from tunewise.desk.report.charts.canvas import FULL_WIDTH, INK, Row, data, standalone, styled, to_svg
from tunewise.desk.report.terminal.tables import needed_width, print_table
from tunewise.desk.report.terminal.times import at_least, study_cost, study_duration
from tunewise.records.plan import ArmPlan, PeakMemory, StudyPlan
from tunewise.spec import TASKS, StudySpec
from tunewise.spec.resolved import ResolvedStudy
from tunewise.text.numbers import MISSING, count, duration, money, size, threads

USES = ("weights", "gradients", "optimizer", "activations", "logits")
# from the report's palette, distinct for stacked neighbors; gray for memory that is only held
COLOURS = {
    "weights": "#8a8f98",
    "gradients": "#d97321",
    "optimizer": "#b763c9",
    "activations": "#3b82c9",
    "logits": "#1a9a76",
}
BAR_HEIGHT = 34  # pixels

Card = tuple[str, Gpu] | None


def print_plan(study: StudySpec, plan: StudyPlan, card: Card, console: Console) -> None:
    """Print the expected memory and time of every arm, on this machine or on `card`."""
    resolved = resolve_as_planned(study, plan)
    console.print(Text(_heading(plan, card), style="bold"))
    console.print(Text(_work(plan)))
    for table in _tables(plan, card, console.width):
        print_table(table, console)
    for sentence in _remarks(resolved, plan, card):
        console.print(Text(sentence))


def _tables(plan: StudyPlan, card: Card, width: int) -> Iterator[Table]:
    """Tables with a column per arm, each with as many arms as fit in the terminal."""
    shown: list[str] = []
    for name in plan.arms:
        if shown and needed_width(_table(plan, card, (*shown, name))) > width:
            yield _table(plan, card, shown)
            shown = []
        shown.append(name)
    yield _table(plan, card, shown)


def _table(plan: StudyPlan, card: Card, names: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for label, cell in _rows(plan, card):
        table.add_row(label, *(Text(cell(plan.arms[name])) for name in names))
    return table


def _heading(plan: StudyPlan, card: Card) -> str:
    here = f"on {plan.device}, {threads(plan.threads)}"
    place = f"on {card[0]}, derived from its datasheet" if card else here
    return f"{plan.model} ({plan.model_type}), task {plan.task}, {plan.precision}, {place}"


def _work(plan: StudyPlan) -> str:
    work = plan.work
    if not work.splits:
        return f"No data: every example is assumed to have {work.longest} tokens (data.max_length)."
    return (
        f"{work.num_rows:,} examples of {work.tokens_per_row:.0f} tokens on average, {work.longest} at most, in "
        f"batches of {work.batch_size}."
    )


def _rows(plan: StudyPlan, card: Card) -> list[tuple[str, Callable[[ArmPlan], str]]]:
    rows: list[tuple[str, Callable[[ArmPlan], str]]] = [
        ("trainable parameters", lambda arm: count(arm.tuned.trainable_parameters)),
        ("share of all", lambda arm: f"{100 * arm.tuned.trainable_parameters / arm.tuned.total_parameters:.4f}%"),
        ("LoRA scale", lambda arm: MISSING if arm.tuned.scale is None else f"{arm.tuned.scale:g}"),
        *((f"  {use}", _part(use)) for use in USES),
        *([("  mapped weights", lambda arm: size(arm.mapped))] if any(a.mapped for a in plan.arms.values()) else []),
        ("peak of a step", lambda arm: _total(arm.step)),
        ("peak of scoring", lambda arm: _total(arm.evaluation)),
        ("peak of loading", lambda arm: MISSING if arm.loading is None else size(arm.loading)),
        (
            f"of {size(plan.memory_bytes)}",
            lambda arm: estimates.fit(arm, plan.memory_bytes) if arm.step else MISSING,
        ),
        ("micro-batch", lambda arm: f"{arm.micro_batches[0][1]:,} tokens"),
        ("largest that fits", _largest),
        ("FLOPs per token", lambda arm: MISSING if arm.flops_per_token is None else f"{arm.flops_per_token:.3g}"),
        ("on disk", lambda arm: size(arm.saved_bytes)),
    ]
    if card:
        least = ("epoch, at least", lambda arm: duration(estimates.least_epoch_seconds(arm, plan, card[1])))
        rows.append(least)
    if any(arm.speed for arm in plan.arms.values()):
        rows.append(("per step", lambda arm: at_least(duration(arm.speed.step_seconds if arm.speed else None), arm)))
        rows.append(("per epoch", lambda arm: at_least(duration(estimates.epoch_seconds(arm, plan)), arm)))
    if price := plan.costs and plan.costs.price:
        label = "cost of an epoch, at least" if card else "cost of an epoch"
        of_card = card[1] if card else None
        rows.append((label, lambda arm: at_least(money(epoch_cost(arm, plan, price, of_card), price.currency), arm)))
    rows.append(("operations", lambda arm: "checked" if arm.is_checked else "estimate"))
    return rows


def _part(use: str) -> Callable[[ArmPlan], str]:
    return lambda arm: MISSING if arm.step is None else size(getattr(arm.step, use))


def _total(peak: PeakMemory | None) -> str:
    return MISSING if peak is None else size(peak.total)


def _largest(arm: ArmPlan) -> str:
    if arm.step is None:
        return MISSING
    if arm.largest_micro_batch is None:
        return "none"
    return f"{arm.largest_micro_batch:,} tokens"


def _remarks(study: ResolvedStudy, plan: StudyPlan, card: Card) -> list[str]:
    remarks = [f"{name}: {arm.note}" for name, arm in plan.arms.items() if arm.note]
    for name, arm in plan.arms.items():
        if arm.step and (packed := estimates.quantized(arm)):
            remarks.append(f"{name} on a 4-bit base (NF4): about {size(packed.total)}, derived by formula.")
    remarks += what_fits(plan)
    remarks += _time(study, plan)
    margin = estimates.resolvable_margin(study, plan)
    if margin:
        remarks.append(
            f"Smallest margin that this test set and these seeds can resolve: about {margin[0]:.2g} in {margin[1]}."
        )
    remarks.append(
        "Memory counts tensors alive at the peak; the process holds more (libraries, cached blocks). FLOPs count the "
        "matrix products of a training step, forward and backward."
    )
    if any(arm.mapped for arm in plan.arms.values()):
        remarks.append(
            "Mapped weights are the part of the weights that stays in the checkpoint's file. They are counted, because "
            "every step reads them, but several workers share them. Short of memory, the system reads them again from "
            "disk for every step, which is slow."
        )
    if not all(arm.is_checked or arm.note for arm in plan.arms.values()):
        remarks.append("estimate: a real step of a small model of this architecture ran different operations.")
    if card:
        if study.machine.price and plan.costs is None:
            remarks.append("machine.price_per_hour is for this machine. Give the price of the card with --prices.")
        remarks.append(f"{card[0]}: {card[1].source}. Derived values; nothing was measured on this card.")
    return remarks


def _time(study: ResolvedStudy, plan: StudyPlan) -> list[str]:
    """The expected time of the whole study, and the source of every time."""
    sources = {arm.speed.source for arm in plan.arms.values() if arm.speed}
    found = []
    if plan.seconds:
        found += [f"The whole study: {study_duration(plan.seconds, plan)}.", *_what_is_counted(study, plan)]
    if plan.costs and (cost := study_cost(plan.costs, plan)):
        price = plan.costs.price
        found.append(f"Cost at {money(price.per_hour, price.currency)} per hour: {cost}.")
    if "steps" in sources:
        found.append("Times are measured from real steps of each arm on this machine, with random weights.")
    if "similar" in sources:
        found.append(
            "With many arms, only some are measured; the times of the others are derived from the work in their steps."
        )
    if "products" in sources:
        found.append(
            "'over': a step did not fit in the free memory or would take too long to try. This is a lower bound: it "
            "assumes the peak matrix-multiply rate measured on this machine."
        )
    return found


def _what_is_counted(study: ResolvedStudy, plan: StudyPlan) -> Iterator[str]:
    """The runs counted in the time of a study, and what is left out."""
    length = estimates.length(study, plan)
    assert length is not None, "a study with seconds"
    least, most = (sum(runs.num_runs for runs in expected_runs(study, length, of)) for of in ("least", "cap"))
    counted = f"{least} runs" if least == most else f"{least} to {most} runs"
    if more := sum(runs.num_runs for runs in later_looks(study, length)):
        counted += f" up to the first look at {study.looks[0]} seeds, and up to {more} more for {study.looks[-1]} seeds"
    left_out = ["loading", "saving", "process starts"]
    if not TASKS[plan.task].has_classes and (study.samples.count or study.metrics):
        left_out.append("texts written for the test set" if study.select_by else "generated text")
    if any(arm.num_extracted for arm in study.arms.values()):
        left_out.append("the singular values for extract")
    yield f"The study has {counted}. Training and scoring are counted; {listed(left_out)} are not."
    if unsettled := [name for name, arm in study.arms.items() if arm.has_open_rank]:
        yield f"{listed(unsettled)}: an estimate; once the rank is chosen, the arm may train faster or drop out."
    if study.budget:
        yield f"The budget of {study.budget} may reduce the study once the first trial has shown how long a run takes."


def chart(plan: StudyPlan) -> str:
    """An SVG chart of peak memory per step: a stacked bar for every arm, and for LoRA on a 4-bit base."""
    bars: dict[str, PeakMemory] = {}
    for name, arm in plan.arms.items():
        if arm.step is None:
            continue
        bars[name] = arm.step
        if packed := estimates.quantized(arm):
            bars[f"{name}, 4-bit base (derived)"] = packed
    return standalone(to_svg(_stacked(bars)))


def _stacked(bars: dict[str, PeakMemory]) -> object:
    rows: list[Row] = [
        {"arm": name, "use": use, "gib": getattr(peak, use) / 2**30, "order": order}
        for name, peak in bars.items()
        for order, use in enumerate(USES)
    ]
    totals: list[Row] = [
        {"arm": name, "gib": peak.total / 2**30, "text": size(peak.total)} for name, peak in bars.items()
    ]
    y = alt.Y("arm:N", sort=list(bars), title=None, axis=alt.Axis(labelLimit=320, labelColor=INK))
    x = alt.X("gib:Q", title="peak memory of a step (GiB)", scale=alt.Scale(nice=True))
    colour = alt.Color("use:N", title=None, scale=alt.Scale(domain=list(USES), range=[COLOURS[use] for use in USES]))
    stacked = alt.Chart(data(rows)).mark_bar(height=0.6 * BAR_HEIGHT).encode(x=x, y=y, color=colour, order="order:Q")
    text = alt.Chart(data(totals)).mark_text(align="left", dx=6, color=INK).encode(x="gib:Q", y=y, text="text:N")
    return styled(alt.layer(stacked, text), FULL_WIDTH, 60 + BAR_HEIGHT * len(bars))
