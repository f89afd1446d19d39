"""Adapters in the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from tunewise.adapter_records import Agreement, Merging
from tunewise.desk.report.text import print_rows

MISSING = "–"


def print_merging(merging: Merging, out: str, console: Console) -> None:
    """What was merged onto what, and what each form of it computes."""
    base = f"{merging.base} ({merging.onto} weights)" if merging.onto != "whole" else merging.base
    console.print(Text(f"{merging.adapter} merged onto {base} in fp32, stored in {out} as {merging.stored}"))
    if merging.trained_on != merging.onto:
        console.print(
            Text(f"It was trained on {merging.trained_on} weights, so the merged model is not quite the adapter's.")
        )
    print_forms(merging.forms, merging.scored_on, console)


def print_forms(forms: Sequence[Agreement], scored_on: str, console: Console) -> None:
    """A row for every form."""
    classifies = any(form.accuracy is not None for form in forms)
    names = ("form", "NLL", *(("accuracy",) if classifies else ()), "largest logit difference")
    rows = [_form_cells(form, classifies) for form in forms]
    print_rows(console, "forms", names, rows, f"on {scored_on}; differences from the first form")


def _form_cells(form: Agreement, classifies: bool) -> tuple[Text, ...]:
    return (
        Text(form.form),
        Text(MISSING if form.nll is None else f"{form.nll:.6f}"),
        *((Text(MISSING if form.accuracy is None else f"{form.accuracy:.2%}"),) if classifies else ()),
        Text(f"{form.max_logit_difference:.2g}"),
    )
