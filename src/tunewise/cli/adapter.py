"""`tunewise adapter ...`: parse, call, print, as in cli/app.py."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.adapter.records import Rounding, Stored
from tunewise.cli.options import Offline, to_write
from tunewise.text.output import say_json

BROKEN = 3  # exit status of a certificate that does not hold: neither the user's mistake nor ours

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
def inspect(
    adapter: Adapter,
    svg: Annotated[
        Path | None,
        typer.Option(parser=to_write, metavar="PATH", help="also draw the norms by layer and module into this .svg"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ranks, scales, spectra and dead modules of a LoRA adapter; its base is not needed."""
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
    out: Annotated[Path, typer.Option(parser=to_write, metavar="PATH", help="a new folder for the smaller adapter")],
    rank: Annotated[int | None, typer.Option(help="at most this rank in every module")] = None,
    energy: Annotated[float | None, typer.Option(help="share of every module's squared norm to keep: 0.95")] = None,
    spread: Annotated[
        bool, typer.Option("--spread", help="spread the parameters that --rank takes over the modules by energy")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a LoRA adapter of lower rank, the nearest there is, and say what was lost."""
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
    first: Annotated[Path, typer.Argument(help="the folder of an adapter")],
    second: Annotated[Path, typer.Argument(help="another adapter of the same base")],
    as_json: Json = False,
) -> None:
    """How alike two LoRA adapters are: cosine of the updates, overlap and angles of their spaces, module by module."""
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
    out: Annotated[Path, typer.Option(parser=to_write, metavar="PATH", help="a new folder for the merged model")],
    base: Base = None,
    trained_on: Annotated[Rounding, typer.Option(help="the base's weights while the adapter was trained")] = "whole",
    onto: Annotated[
        Rounding | None, typer.Option(help="the weights to merge onto: whole, or [default] as it was trained")
    ] = None,
    dtype: Annotated[Stored | None, typer.Option(help="how to store it [default: as the base is]")] = None,
    data: Data = None,
    sets: Sets = None,
    as_json: Json = False,
    offline: Offline = False,
) -> None:
    """Merge an adapter into its base in fp32, cast once, and say what that changes."""
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
    logits: Annotated[float, typer.Option(min=0, help="a logit may differ this much, but for bf16")] = 1e-3,
    metric: Annotated[float, typer.Option(min=0, help="NLL and accuracy may change this much in bf16")] = 0.01,
    as_json: Json = False,
    offline: Offline = False,
) -> None:
    """Does an adapter compute the same read back and merged? Exit status 3 if not."""
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
