"""The command line: parse, call, print. No logic, and nothing slow is imported before it is needed."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tunewise.cli_adapter import adapter_app
from tunewise.cli_options import Offline, to_write

app = typer.Typer(
    name="tunewise",
    help="Is LoRA as good as full fine-tuning for your model, your data, your machine? Trains both, fairly, and says.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(adapter_app, name="adapter")

StudyFile = Annotated[Path | None, typer.Argument(help="a study file (YAML)", show_default=False)]
Model = Annotated[str | None, typer.Option(help="instead of a study file: a bundled name, a folder, or a hub id")]
Data = Annotated[
    str | None, typer.Option(help="a file, a folder with train/valid/test files, a hub id, builtin:stdlib")
]
Arms = Annotated[list[str] | None, typer.Option("--arm", help="NAME=METHOD,key=value,... (repeatable)")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="override a key of the study: train.epochs=1 (repeatable)")
]
Out = Annotated[
    Path | None,
    typer.Option(parser=to_write, metavar="PATH", help="the study folder [default: runs/<name of the study>]"),
]
Budget = Annotated[str | None, typer.Option(help="a time such as 2h: caps and looks shrink for all arms alike to fit")]
Folder = Annotated[Path, typer.Argument(help="a study folder, such as runs/quickstart")]

INTERRUPTED = 130  # exit status after a Ctrl-C


def _print_versions(is_asked: bool) -> None:
    """What a report of a bug needs, read from the packages' metadata: to import them would take seconds."""
    if is_asked:
        from importlib.metadata import version
        from platform import python_version

        libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
        typer.echo(f"tunewise {version('tunewise')} (python {python_version()}, {libraries})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_versions, is_eager=True, help="show versions and exit")
    ] = False,
) -> None:
    """What there is to ask without a command."""


@app.command()
def quickstart(
    sets: Sets = None,
    budget: Budget = None,
    out: Out = None,
    with_unfair_arm: Annotated[
        bool, typer.Option("--with-unfair-arm", help="add an arm that nobody tuned, to see the fairness rules catch it")
    ] = False,
    offline: Offline = False,
) -> None:
    """A real comparison in a few minutes: bundled base, offline data, no arguments."""
    from tunewise.study_file import UNFAIR_ARM, parse_options, read_study

    study = Path(__file__).parent / "assets" / "studies" / "quickstart.yaml"
    extra = UNFAIR_ARM if with_unfair_arm else {}
    limits = {"budget": budget} if budget else {}
    _run(read_study(study, {**extra, **parse_options(sets or []), **limits}), out)


@app.command()
def compare(  # noqa: PLR0913 - every parameter is an option of the command
    study: StudyFile = None,
    model: Model = None,
    data: Data = None,
    arm: Arms = None,
    sets: Sets = None,
    budget: Budget = None,
    accept_stale: Annotated[
        bool,
        typer.Option("--accept-stale", help="also take runs made with another base or other library versions"),
    ] = False,
    out: Out = None,
    offline: Offline = False,
) -> None:
    """Run what is missing of a study; verdict, report, tuned models."""
    more = [f"budget={budget}"] if budget else []
    more += ["accept_stale=true"] if accept_stale else []
    _run(_study(study, model, data, arm, [*(sets or []), *more]), out)


@app.command()
def train(  # noqa: PLR0913 - every parameter is an option of the command
    study: StudyFile = None,
    only: Annotated[str | None, typer.Option("--only", help="the arm of the study file to train")] = None,
    model: Model = None,
    data: Data = None,
    arm: Arms = None,
    sets: Sets = None,
    out: Out = None,
    offline: Offline = False,
) -> None:
    """Tune one arm only: search its learning rate, confirm it, keep the best model."""
    from tunewise.study_file import keep_one_arm

    _run(keep_one_arm(_study(study, model, data, arm, sets), only), out)


@app.command()
def check(  # noqa: PLR0913 - every parameter is an option of the command
    study: StudyFile = None,
    model: Model = None,
    data: Data = None,
    arm: Arms = None,
    sets: Sets = None,
    out: Out = None,
    offline: Offline = False,
) -> None:
    """Validate everything before training, and show what would be trained on."""
    from tunewise.desk.report.check import print_check
    from tunewise.study import check as check_study
    from tunewise.terminal import Terminal

    print_check(check_study(_study(study, model, data, arm, sets), out), Terminal())
    typer.echo(f"\nnext: {shlex.join(['tunewise', 'compare', *sys.argv[2:]])}")  # the same options as here


@app.command()
def plan(  # noqa: PLR0913 - every parameter is an option of the command
    study: StudyFile = None,
    model: Model = None,
    data: Data = None,
    arm: Arms = None,
    sets: Sets = None,
    gpu: Annotated[str | None, typer.Option(help="for this card instead of this machine, such as A100-80GB")] = None,
    probe: Annotated[bool, typer.Option(help="do a few steps of every arm to tell how long the study takes")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    svg: Annotated[
        Path | None,
        typer.Option(parser=to_write, metavar="PATH", help="also draw what fills the memory as a chart into this .svg"),
    ] = None,
    offline: Offline = False,
) -> None:
    """What every arm will need: parameters, memory, time, disk. Needs the model's configuration, not its weights."""
    from tunewise.desk.gpus import find_gpu
    from tunewise.desk.report.plan import chart, print_plan
    from tunewise.disk import require_output, write_output
    from tunewise.spec import NO_DATA
    from tunewise.study import plan as plan_study
    from tunewise.terminal import Terminal

    if svg:
        require_output(svg, ".svg")
    asked = _study(study, model, data or (None if study else NO_DATA), arm, sets)
    card = find_gpu(gpu) if gpu else None
    found = plan_study(asked, card[1].request() if card else None, probe=probe)
    if svg:
        drawn = chart(found)
        write_output(svg, lambda temporary: temporary.write_text(drawn, encoding="utf-8"))
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        print_plan(asked, found, card, Terminal())


@app.command()
def init(
    model: Annotated[str, typer.Option(help="a bundled name, a folder, or a hub id")] = "tiny",
    data: Annotated[
        str, typer.Option(help="a file, a folder with train/valid/test files, a hub id")
    ] = "builtin:stdlib",
    to: Annotated[Path, typer.Option(parser=to_write, metavar="PATH", help="the study file to write")] = Path(
        "study.yaml"
    ),
) -> None:
    """Write a commented study file to start from."""
    from tunewise.study_file import write_template

    write_template(model, data, to)
    typer.echo(f"wrote {to}\nnext: {shlex.join(['tunewise', 'check', str(to)])}")


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="study folders; several stand side by side")],
    records: Annotated[
        Path | None,
        typer.Option(
            parser=to_write, metavar="PATH", help="also write every run as a row of this .csv or .parquet file"
        ),
    ] = None,
    peft_results: Annotated[
        list[Path] | None,
        typer.Option(help="a result JSON of peft's method_comparison suite, to stand beside (repeatable)"),
    ] = None,
    advice: Annotated[bool, typer.Option("--advice", help="print its last section alone: what to do, and why")] = False,
) -> None:
    """Build the report of study folders again; reads only, trains nothing."""
    from tunewise.study import export
    from tunewise.study import report as build

    results = [build(folder) for folder in folders]
    if records:
        typer.echo(f"{export(folders, records)} runs written to {records}")
    if advice:
        _advise(results)
    elif len(results) == 1 and not peft_results:
        _show(results[0])
    else:
        _show_together(results, peft_results or [])


@app.command(name="list")
def list_studies(root: Annotated[Path, typer.Argument(help="where study folders lie")] = Path("runs")) -> None:
    """The studies below a folder, each with its verdicts."""
    from tunewise.desk.report.listing import print_listing
    from tunewise.terminal import Terminal

    print_listing(root, Terminal())


@app.command()
def generate(
    folder: Folder,
    prompt: Annotated[str, typer.Option(help="the prompt (or the text to classify)")],
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="let a study run the code of its model that it says it runs")
    ] = False,
    offline: Offline = False,
) -> None:
    """What base and tuned models answer to a prompt, side by side."""
    from tunewise.safe_text import printable
    from tunewise.study import answers

    for arm, text in answers(folder, prompt, max_new_tokens, trust_remote_code=trust_remote_code).items():
        typer.echo(f"--- {arm}\n{printable(text)}")


def main() -> None:
    """Exit status 0: good; 2: the user's mistake, told in one message; 1: ours; 130: interrupted."""
    from tunewise.errors import TunewiseError, UserError
    from tunewise.safe_text import printable, redacted

    try:
        app(prog_name="tunewise")  # also with python -m
    except UserError as error:
        print(f"error: {printable(redacted(str(error)))}", file=sys.stderr)
        sys.exit(2)
    except TunewiseError as error:
        print(f"internal error: {printable(redacted(str(error)))}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as ended:  # typer makes one of a KeyboardInterrupt, and says nothing
        if ended.code == INTERRUPTED:
            print("interrupted. What is finished is kept: the same command continues.", file=sys.stderr)
            print(f"next: {shlex.join(['tunewise', *sys.argv[1:]])}", file=sys.stderr)
        raise


def _study(
    study: Path | None, model: str | None, data: str | None, arm: list[str] | None, sets: list[str] | None
) -> Any:
    from tunewise.study_file import study_from_options

    return study_from_options(study, model, data, arm or [], sets or [])


def _run(study: Any, out: Path | None) -> None:
    from tunewise.progress import StudyProgress
    from tunewise.study import compare as run_study
    from tunewise.terminal import Terminal

    with StudyProgress(Terminal()) as progress:
        result = run_study(study, out, progress)
    _show(result)


def _show(result: Any) -> None:
    from tunewise.desk.report.text import print_report
    from tunewise.terminal import Terminal

    print_report(result.report, Terminal(), result.folder)


def _advise(results: list[Any]) -> None:
    from tunewise.desk.report.text import print_advice
    from tunewise.terminal import Terminal

    for result in results:
        if len(results) > 1:
            typer.echo(f"\n{result.folder}")
        print_advice(result.report, Terminal())


def _show_together(results: list[Any], peft_results: list[Path]) -> None:
    from tunewise.desk.report.across import SideBySide, peft_result, print_side_by_side, side_by_side
    from tunewise.terminal import Terminal

    others = [peft_result(path) for path in peft_results]
    together = side_by_side({str(result.folder): result.report for result in results})
    rows, remarks = [row for row, _ in others], [remark for _, remark in others]
    print_side_by_side(SideBySide(rows=(*together.rows, *rows), remarks=(*together.remarks, *remarks)), Terminal())
