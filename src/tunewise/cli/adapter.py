"""Commands of `tunewise adapter`: parse, call, print, as in cli/app.py."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.adapter.records import Rounding, Stored
from tunewise.cli.options import Offline, to_write
from tunewise.text.output import say_json

BROKEN = 3  # exit status if a check of the certificate fails: neither the user's mistake nor ours

adapter_app = typer.Typer(
    help="Inspect, shrink, compare, merge or verify a PEFT adapter.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Adapter = Annotated[Path, typer.Argument(help="Adapter folder: adapter_config.json and its safetensors file.")]
Base = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Base model: a folder or hub id [default: the one that the adapter names]."),
]
Data = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Rows to score on [default: topics of Python's documentation].")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TEXT", help="How to read the rows, for example data.separator=x. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@adapter_app.command()
def inspect(
    adapter: Adapter,
    svg: Annotated[
        Path | None,
        typer.Option(
            parser=to_write,
            metavar="PATH",
            help="Also save a chart of the norms by layer and module as this .svg file.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show ranks, scales, spectra and dead modules. Does not need the base model."""
    from tunewise.cli.terminal import Terminal
    from tunewise.desk.adapter.heatmap import heat_map
    from tunewise.desk.adapter.inspect import inspect_adapter
    from tunewise.desk.adapter.text import print_adapter
    from tunewise.storage.disk import require_output, write_output

    if svg:
        require_output(svg, ".svg")
    view = inspect_adapter(adapter)
    if svg:
        drawn = heat_map(view)
        write_output(svg, lambda temporary: temporary.write_text(drawn, encoding="utf-8"))
    if as_json:
        say_json(view.model_dump_json(indent=1))
    else:
        print_adapter(view, Terminal())


@adapter_app.command()
def shrink(
    adapter: Adapter,
    out: Annotated[Path, typer.Option(parser=to_write, metavar="PATH", help="New folder for the smaller adapter.")],
    rank: Annotated[
        int | None, typer.Option(metavar="INTEGER", help="Highest rank of any module, for example 4.")
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(metavar="FLOAT", help="Share of each module's squared norm to keep, for example 0.95."),
    ] = None,
    spread: Annotated[
        bool, typer.Option("--spread", help="Spend the parameters of a uniform --rank where they keep the most energy.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the nearest adapter of lower rank; report the loss."""
    from tunewise.cli.terminal import Terminal
    from tunewise.desk.adapter.inspect import shrink_adapter
    from tunewise.desk.adapter.text import print_shrinking

    shrinking = shrink_adapter(adapter, out, rank, energy, spread)
    if as_json:
        say_json(shrinking.model_dump_json(indent=1))
    else:
        print_shrinking(shrinking, Terminal())


@adapter_app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="Adapter folder.")],
    second: Annotated[Path, typer.Argument(help="Another adapter of the same base.")],
    as_json: Json = False,
) -> None:
    """Compare the updates of two LoRA adapters module by module.

    Reports the cosine of the updates, and the overlap and angles of their spaces.
    """
    from tunewise.cli.terminal import Terminal
    from tunewise.desk.adapter.inspect import compare_adapters
    from tunewise.desk.adapter.text import print_difference

    difference = compare_adapters(first, second)
    if as_json:
        say_json(difference.model_dump_json(indent=1))
    else:
        print_difference(difference, Terminal())


@adapter_app.command()
def merge(  # noqa: PLR0913 - every parameter is an option of the command
    adapter: Adapter,
    out: Annotated[Path, typer.Option(parser=to_write, metavar="PATH", help="New folder for the merged model.")],
    base: Base = None,
    trained_on: Annotated[
        Rounding, typer.Option(help="Form of the base's weights during training; nf4 for QLoRA.")
    ] = "whole",
    onto: Annotated[
        Rounding | None, typer.Option(help="Form of the base's weights to merge onto [default: as it was trained].")
    ] = None,
    dtype: Annotated[Stored | None, typer.Option(help="Dtype of the merged model [default: that of the base].")] = None,
    data: Data = None,
    sets: Sets = None,
    as_json: Json = False,
    offline: Offline = False,
) -> None:
    """Merge an adapter into its base; report what changes.

    Merges in fp32 and casts the result once.
    """
    from tunewise.cli.terminal import Terminal
    from tunewise.cli.words import parse_options
    from tunewise.commands.adapters import data_spec
    from tunewise.commands.adapters import merge as merge_into
    from tunewise.desk.adapter.text import print_merging

    rows = data_spec(data, parse_options(sets or []))
    merging = merge_into(adapter, out, base, trained_on, onto, dtype, rows)
    if as_json:
        say_json(merging.model_dump_json(indent=1))
    else:
        print_merging(merging, str(out), Terminal())


@adapter_app.command()
def verify(  # noqa: PLR0913 - every parameter is an option of the command
    adapter: Adapter,
    base: Base = None,
    data: Data = None,
    sets: Sets = None,
    logits: Annotated[
        float,
        typer.Option(
            min=0, metavar="FLOAT", help="Largest allowed logit difference (does not apply to the bf16 check)."
        ),
    ] = 1e-3,
    metric: Annotated[
        float,
        typer.Option(
            min=0, metavar="FLOAT", help="Largest allowed change of NLL (nats per token) and accuracy (share) in bf16."
        ),
    ] = 0.01,
    as_json: Json = False,
    offline: Offline = False,
) -> None:
    """Check that reloading and merging give the same results.

    Exits with 3 if they do not.
    """
    from tunewise.cli.terminal import Terminal
    from tunewise.cli.words import parse_options
    from tunewise.commands.adapters import data_spec
    from tunewise.commands.adapters import verify as certify
    from tunewise.desk.adapter.text import print_certificate

    certificate = certify(adapter, base, data_spec(data, parse_options(sets or [])), logits, metric)
    if as_json:
        say_json(certificate.model_dump_json(indent=1))
    else:
        print_certificate(certificate, Terminal())
    if not certificate.holds:
        raise typer.Exit(BROKEN)
