"""The command `judge`: parse, call, print, as in cli/app.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tunewise.cli.gate import CLOSED, FailOnOption, Junit, Summary, gate_of
from tunewise.cli.options import to_write

SEVERAL = ("--full", "--arm")


class SeveralPaths(TyperCommand):
    """A command whose options --full and --arm take several paths, as a shell writes them for `runs/full-*`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before every further path."""
        return list(super().parse_args(ctx, list(repeated(args))))


def repeated(args: Sequence[str]) -> Iterator[str]:
    """['--arm', 'a=x', 'y'] -> ['--arm', 'a=x', '--arm', 'a=y']."""
    option, name, number = "", "", 0
    for text in args:
        if text.startswith("-"):
            option, name, number = text, "", 0
            yield text
            continue
        number += 1
        if option not in SEVERAL or (option == "--arm" and number > 1 and not name):
            yield text
        elif number == 1:
            name = text.partition("=")[0] if "=" in text else ""
            yield text
        else:
            yield option
            yield text if option == "--full" or "=" in text else f"{name}={text}"


def judge(  # noqa: PLR0913 - every parameter is an option of the command
    full: Annotated[
        list[Path] | None,
        typer.Option("--full", metavar="PATH", help="Logs of full fine-tuning: a file or folder for every run."),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option("--arm", metavar="NAME=PATH", help="Logs of another arm, for example lora=DIR. Repeatable."),
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Acceptable quality loss, for example 1pp (the default for shares) or 0.02."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", metavar="TEXT", help="Metric or column to judge [default: a log's first]. Repeatable."
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Column whose equal values mark items that belong together."),
    ] = None,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="Scores of tables are losses or errors.")
    ] = False,
    out: Annotated[
        Path, typer.Option(parser=to_write, metavar="PATH", help="Folder for judge.html and judge.json.")
    ] = Path("runs/judged"),
    fail_on: FailOnOption = None,
    summary: Summary = None,
    junit: Junit = None,
) -> None:
    """Judge logs of models that others trained and evaluated.

    Reads per-sample logs of lm-evaluation-harness (--log_samples) and tables of id and score.
    """
    from tunewise.cli.terminal import Terminal
    from tunewise.commands.judge import arms_of, write_judgment
    from tunewise.commands.judge import judge as judge_logs
    from tunewise.desk.judge.gate import judgment_at_gate
    from tunewise.desk.judge.terminal import print_judgment

    logs = [text for text in arm or [] if "=" in text or fail_on is None]
    gate = gate_of(fail_on, [text for text in arm or [] if text not in logs], summary, junit)
    report = judge_logs(
        full or [], arms_of(logs), margin=margin, metrics=metric or [], unit=unit, lower_is_better=lower_is_better
    )
    result = judgment_at_gate(report, gate.fail_on, gate.arms) if gate else None
    write_judgment(report, out)
    print_judgment(report, Terminal(), out)
    if gate and result and not gate.tell(result):
        raise typer.Exit(CLOSED)
