"""The command `judge`: parse, call, print, as in cli/app.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tunewise.cli.gate import CLOSED, FailOnOption, Junit, Summary, gate_of
from tunewise.cli.options import Offline, Sets, to_write

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


FullPaths = Annotated[
    list[Path] | None,
    typer.Option("--full", metavar="PATH", help="Full fine-tuning: a log, or a folder, for every run."),
]
ArmPaths = Annotated[
    list[str] | None,
    typer.Option("--arm", metavar="NAME=PATH", help="Another arm, for example lora=DIR. Repeatable."),
]
Base = Annotated[
    str | None,
    typer.Option("--model", metavar="TEXT", help="Base model: --full and --arm name tuned models to score on --data."),
]
TestRows = Annotated[str | None, typer.Option("--data", metavar="TEXT", help="With --model: file of the test rows.")]
MarginOption = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Acceptable quality loss, for example 1pp (the default for shares) or 0.02."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="TEXT", help="Metric or column to judge [default: a log's first]. Repeatable."),
]
Unit = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Column whose equal values mark items that belong together."),
]
Lower = Annotated[bool, typer.Option("--lower-is-better", help="Scores of tables are losses or errors.")]
Folder = Annotated[Path, typer.Option(parser=to_write, metavar="PATH", help="Folder for judge.html and judge.json.")]


def judge(  # noqa: PLR0913 - every parameter is an option of the command
    full: FullPaths = None,
    arm: ArmPaths = None,
    model: Base = None,
    data: TestRows = None,
    sets: Sets = None,
    margin: MarginOption = None,
    metric: Metrics = None,
    unit: Unit = None,
    lower_is_better: Lower = False,
    out: Folder = Path("runs/judged"),
    fail_on: FailOnOption = None,
    summary: Summary = None,
    junit: Junit = None,
    offline: Offline = False,
) -> None:
    """Judge models that others trained, from logs or by scoring them.

    Reads per-sample logs of lm-evaluation-harness (--log_samples) and tables of id and score. With --model and --data,
    scores the adapters or models in the folders instead.
    """
    from tunewise.cli.terminal import Terminal
    from tunewise.commands.judge import arms_of, require_own, write_judgment
    from tunewise.desk.judge.gate import judgment_at_gate
    from tunewise.desk.judge.terminal import print_judgment

    logs = [text for text in arm or [] if "=" in text or fail_on is None]
    gate = gate_of(fail_on, [text for text in arm or [] if text not in logs], summary, junit)
    arms = arms_of(full or [], logs)
    require_own(out)
    if model or data or sets:
        report = _scored(arms, (model, data, sets or []), out, margin)
    else:
        from tunewise.commands.judge import judge as judge_logs

        report = judge_logs(arms, margin=margin, metrics=metric or [], unit=unit, lower_is_better=lower_is_better)
    result = judgment_at_gate(report, gate.fail_on, gate.arms) if gate else None
    write_judgment(report, out)
    print_judgment(report, Terminal(), out)
    if gate and result and not gate.tell(result):
        raise typer.Exit(CLOSED)


def _scored(arms: Any, of: tuple[str | None, str | None, list[str]], out: Path, margin: str | None) -> Any:
    from tunewise.cli.progress import StudyProgress
    from tunewise.cli.terminal import Terminal
    from tunewise.cli.words import absolute_model, parse_options
    from tunewise.commands.judge import SCORED
    from tunewise.commands.judge_models import Asked, judge_models
    from tunewise.errors import SpecError

    model, data, sets = of
    if not model or not data:
        raise SpecError("--model, --data and --set score models: give at least --model BASE and --data TEST.")
    asked = Asked(absolute_model(model), data, arms, parse_options(sets))
    with StudyProgress(Terminal()) as progress:
        return judge_models(asked, out / SCORED, margin, progress.on)
