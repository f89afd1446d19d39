"""Terminal output of the adapter commands."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from tunewise.adapter.records import Agreement, Certificate, Merging
from tunewise.desk.adapter.view import AdapterView, Difference, ModuleView, Shrinking
from tunewise.desk.report.terminal.text import print_rows

MISSING = "–"
SHADES = " ░▒▓█"
MOST_LOST = 5
SHOWN_SHARES = ("95", "99")  # of the squared norm, in percent; JSON has more


def print_adapter(view: AdapterView, console: Console) -> None:
    """Print ranks, scales, a row per kind of module, and where the update is large."""
    ranks, scales = (", ".join(f"{value:g}" for value in values) for values in (view.ranks, view.scales))
    what = f"{view.parameters:,} parameters in {len(view.modules)} modules, rank {ranks}, scale {scales}"
    console.print(Text(f"{view.path}: {what}"))
    console.print(Text(f"base: {view.base or MISSING}, task: {view.task or MISSING}", style="dim"))
    for name, parameters in view.saved_beside.items():
        console.print(Text(f"fully trained: {name} ({parameters:,} parameters)"))
    columns = ("module", "modules", "norm", "effective rank", *(f"rank, {share}%" for share in SHOWN_SHARES))
    rows = [_kind_cells(kind, of_kind) for kind, of_kind in _by_kind(view).items()]
    print_rows(console, "modules by kind", columns, rows, "range over the layers")
    if view.dead:
        console.print(Text(f"modules whose update is 0: {', '.join(view.dead)}", style="yellow"))
    _print_shades(view, console)
    console.print(
        Text("The base model was not read. `tunewise adapter verify` checks all module names against it.", style="dim")
    )


def _by_kind(view: AdapterView) -> dict[str, list[ModuleView]]:
    kinds: dict[str, list[ModuleView]] = {}
    for module in view.modules:
        kinds.setdefault(module.kind, []).append(module)
    return kinds


def _kind_cells(kind: str, modules: Sequence[ModuleView]) -> tuple[Text, ...]:
    effective = [module.effective_rank for module in modules if module.effective_rank is not None]
    return (
        Text(kind),
        Text(str(len(modules))),
        _range([module.norm for module in modules], ".3g"),
        _range(effective, ".1f"),
        *(_range([module.energy_ranks[share] for module in modules], "d") for share in SHOWN_SHARES),
    )


def _range(values: Sequence[float], form: str) -> Text:
    if not values:
        return Text(MISSING)
    low, high = format(min(values), form), format(max(values), form)
    return Text(low if low == high else f"{low} to {high}")


def _print_shades(view: AdapterView, console: Console) -> None:
    """Print the heat map in characters: a column per layer, darker for a larger update."""
    most = max(module.norm for module in view.modules)
    kinds = _by_kind(view)
    width = max(map(len, kinds))
    if not most or width + 2 * max(map(len, kinds.values())) > console.width:
        return
    console.print(Text("norm of the update, layer by layer", style="italic"))
    for kind, modules in kinds.items():
        cells = (SHADES[round(module.norm / most * (len(SHADES) - 1))] * 2 for module in modules)
        console.print(Text(f"{kind:<{width}} {''.join(cells)}"))


def print_difference(difference: Difference, console: Console) -> None:
    """Print the similarity of two adapters, module by module."""
    whole = MISSING if difference.cosine is None else f"{difference.cosine:+.3f}"
    console.print(Text(f"{difference.first} vs. {difference.second}: cosine similarity of all updates {whole}"))
    rows = [
        (
            Text(module.module),
            Text(MISSING if module.cosine is None else f"{module.cosine:+.3f}"),
            Text(f"{module.overlap_outputs:.2f}"),
            Text(f"{module.overlap_inputs:.2f}"),
            Text(f"{module.by_chance:.2f}"),
            Text(f"{module.angles[0]:.0f}°"),
            Text(MISSING if module.distance is None else f"{module.distance:.2f}"),
        )
        for module in difference.modules
    ]
    columns = ("module", "cosine", "overlap out", "in", "by chance", "angle", "distance")
    caption = (
        "overlap: share of the smaller subspace in the larger; angle: the smallest; distance: relative to the first"
    )
    print_rows(console, "modules", columns, rows, caption)
    for path, names in ((difference.first, difference.only_first), (difference.second, difference.only_second)):
        if names:
            console.print(Text(f"only in {path}: {', '.join(names)}"))


def print_shrinking(shrinking: Shrinking, console: Console) -> None:
    """Print what was written and what was lost."""
    lost = MISSING if shrinking.lost is None else f"{shrinking.lost:.2%}"
    console.print(
        Text(
            f"{shrinking.path} -> {shrinking.out}: {shrinking.rule}; {shrinking.parameters_before:,} -> "
            f"{shrinking.parameters:,} parameters, {shrinking.bytes_before:,} -> {shrinking.bytes:,} bytes"
        )
    )
    console.print(Text(f"lost: {lost} of the update's norm"))
    worst = sorted(shrinking.modules, key=lambda module: -(module.lost or 0))[:MOST_LOST]
    rows = [
        (Text(m.module), Text(f"{m.rank_before} -> {m.rank}"), Text(MISSING if m.lost is None else f"{m.lost:.2%}"))
        for m in worst
    ]
    print_rows(console, "modules that lost most", ("module", "rank", "lost"), rows, "of the norm of their update")


def print_merging(merging: Merging, out: str, console: Console) -> None:
    """Print what was merged into what, and the results of each form."""
    base = f"{merging.base} ({merging.onto} weights)" if merging.onto != "whole" else merging.base
    console.print(Text(f"{merging.adapter} merged into {base} in fp32, saved to {out} as {merging.stored}"))
    if merging.trained_on != merging.onto:
        console.print(
            Text(f"It was trained on {merging.trained_on} weights, so the merged model differs from it slightly.")
        )
    print_forms(merging.forms, merging.scored_on, console)
    if merging.note:
        console.print(Text(f"- {merging.note}"))


def print_certificate(certificate: Certificate, console: Console) -> None:
    """Print every form, every check, and whether all passed."""
    console.print(Text(f"{certificate.adapter} on {certificate.base}, {certificate.num_rows} rows"))
    print_forms(certificate.forms, certificate.scored_on, console)
    if certificate.note:
        console.print(Text(f"- {certificate.note}"))
    for check in certificate.checks:
        word, style = ("ok", "green") if check.passed else ("FAILED", "bold red")
        console.print(Text.assemble((f"{word:<7}", style), f"{check.name}: {check.sentence}"))
    summary = (
        "All forms give the same results."
        if certificate.holds
        else "The forms give different results, or text is tokenized differently."
    )
    console.print(Text(summary, style="bold"))


def print_forms(forms: Sequence[Agreement], scored_on: str, console: Console) -> None:
    """Print a row per form."""
    classifies = any(form.accuracy is not None for form in forms)
    names = ("form", "NLL", *(("accuracy",) if classifies else ()), "largest logit difference")
    rows = [_form_cells(form, classifies) for form in forms]
    print_rows(console, "forms", names, rows, f"on {scored_on}; differences are from the first form")


def _form_cells(form: Agreement, classifies: bool) -> tuple[Text, ...]:
    return (
        Text(form.form),
        Text(MISSING if form.nll is None else f"{form.nll:.6f}"),
        *((Text(MISSING if form.accuracy is None else f"{form.accuracy:.2%}"),) if classifies else ()),
        Text(f"{form.max_logit_difference:.2g}"),
    )
