"""`tunewise adapter ...`: parse, call, print, as in cli.py."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.adapter_records import Rounding, Stored

adapter_app = typer.Typer(
    help="Any peft adapter on disk, whoever made it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Adapter = Annotated[Path, typer.Argument(help="the folder of an adapter: adapter_config.json and its safetensors")]
Base = Annotated[str | None, typer.Option(help="the base [default: the one that the adapter names]")]
Data = Annotated[Path | None, typer.Option(help="rows to score on [default: topics of Python's documentation]")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="how the rows are read: data.separator=x (repeatable)")]
Json = Annotated[bool, typer.Option("--json", help="print everything as JSON")]


@adapter_app.command()
def merge(  # noqa: PLR0913 - every parameter is an option of the command
    adapter: Adapter,
    out: Annotated[Path, typer.Option(help="a new folder for the merged model")],
    base: Base = None,
    trained_on: Annotated[Rounding, typer.Option(help="the base's weights while the adapter was trained")] = "whole",
    onto: Annotated[
        Rounding | None, typer.Option(help="the weights to merge onto: whole, or [default] as it was trained")
    ] = None,
    dtype: Annotated[Stored | None, typer.Option(help="how to store it [default: as the base is]")] = None,
    data: Data = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Merge an adapter into its base in fp32, cast once, and say what that changes."""
    from rich.console import Console

    from tunewise.adapters import data_spec
    from tunewise.adapters import merge as merge_into
    from tunewise.desk.adapter.text import print_merging
    from tunewise.study_file import parse_options

    rows = data_spec(data, parse_options(sets or []))
    merging = merge_into(adapter, out, base, trained_on, onto, dtype, rows)
    if as_json:
        typer.echo(merging.model_dump_json(indent=1))
    else:
        print_merging(merging, str(out), Console())
