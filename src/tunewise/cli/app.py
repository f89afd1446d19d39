"""The command line: parse, call, print. No logic, and nothing slow is imported before it is needed."""

import shlex
import sys
import threading
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from tunewise.assets import ASSETS
from tunewise.cli.adapter import adapter_app
from tunewise.cli.explain import explain
from tunewise.cli.gate import CLOSED, FailOnOption, Gate, Junit, Summary, gate_of, require_arms
from tunewise.cli.judge import SeveralPaths, judge
from tunewise.cli.learn import learn
from tunewise.cli.options import (
    AcceptStale,
    Again,
    Arms,
    Budget,
    Data,
    Devices,
    ExecutorOption,
    Folder,
    Model,
    NewStudyFile,
    Offline,
    Out,
    Prices,
    Probe,
    RayAddress,
    Sets,
    StopIfHopeless,
    StudyFile,
    Svg,
    Workers,
    print_versions,
    to_write,
)
from tunewise.cli.reports import list_studies, report
from tunewise.cli.show import (
    show_report,
    show_sets,
    show_unfinished,
)
from tunewise.text.output import say, say_json, standard_streams

app = typer.Typer(
    name="tunewise",
    help="Is LoRA as good as full fine-tuning for your model, data and machine?\n\n"
    "Trains both under one protocol and reports which is better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(adapter_app, name="adapter")

INTERRUPTED = 130  # exit status after a Ctrl-C
UNFINISHED = 3  # exit status if a requested run was lost


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_versions, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    """Options without a command."""


@app.command()
def quickstart(
    sets: Sets = None,
    budget: Budget = None,
    again: Again = False,
    out: Out = None,
    with_unfair_arm: Annotated[
        bool, typer.Option("--with-unfair-arm", help="Add an untuned arm, to see the fairness rules catch it.")
    ] = False,
    offline: Offline = False,
) -> None:
    """Run a complete comparison offline in a few minutes.

    Uses the bundled base model and bundled data. Needs no arguments.
    """
    from tunewise.cli.words import parse_options
    from tunewise.spec.reading import read_study

    study = ASSETS / "studies" / ("quickstart-unfair.yaml" if with_unfair_arm else "quickstart.yaml")
    limits = {"budget": budget} if budget else {}
    _run(read_study(study, {**parse_options(sets or []), **limits}), out, again)


@app.command()
def compare(  # noqa: PLR0913 - every parameter is an option of the command
    study: StudyFile = None,
    model: Model = None,
    data: Data = None,
    arm: Arms = None,
    sets: Sets = None,
    budget: Budget = None,
    accept_stale: AcceptStale = False,
    again: Again = False,
    hopeless: StopIfHopeless = 0.0,
    workers: Workers = None,
    executor: ExecutorOption = None,
    ray_address: RayAddress = None,
    out: Out = None,
    fail_on: FailOnOption = None,
    summary: Summary = None,
    junit: Junit = None,
    offline: Offline = False,
) -> None:
    """Run or resume a study; write its verdict and report.

    Also writes the tuned models.
    """
    methods = [text for text in arm or [] if "=" in text or fail_on is None]
    gate = gate_of(fail_on, [text for text in arm or [] if text not in methods], summary, junit)
    more = [f"budget={budget}"] if budget else []
    more += [f"machine.workers={workers}"] if workers is not None else []
    more += [f"machine.executor={executor}"] if executor is not None else []
    more += ["accept_stale=true"] if accept_stale else []
    asked = _study(study, model, data, methods, [*(sets or []), *more])
    require_arms(gate, asked)
    _run(asked, out, again, gate, least_chance=hopeless, ray_address=ray_address)


@app.command()
def train(  # noqa: PLR0913 - every parameter is an option of the command
    study: StudyFile = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="TEXT", help="Arm of the study file to train, for example lora-r8.")
    ] = None,
    model: Model = None,
    data: Data = None,
    arm: Arms = None,
    sets: Sets = None,
    accept_stale: AcceptStale = False,
    again: Again = False,
    workers: Workers = None,
    executor: ExecutorOption = None,
    ray_address: RayAddress = None,
    out: Out = None,
    offline: Offline = False,
) -> None:
    """Tune one arm: search its learning rate, keep the best model."""
    from tunewise.commands.opening import require_one_set
    from tunewise.desk.protocol.resolve import keep_one_arm

    more = ["accept_stale=true"] if accept_stale else []
    more += [f"machine.workers={workers}"] if workers is not None else []
    more += [f"machine.executor={executor}"] if executor is not None else []
    asked = _study(study, model, data, arm, [*(sets or []), *more])
    require_one_set(asked)
    _run(keep_one_arm(asked, only), out, again, ray_address=ray_address)


@app.command()
def check(  # noqa: PLR0913 - every parameter is an option of the command
    study: StudyFile = None,
    model: Model = None,
    data: Data = None,
    arm: Arms = None,
    sets: Sets = None,
    out: Out = None,
    probe: Probe = True,
    offline: Offline = False,
) -> None:
    """Validate a study and show what it would train on."""
    from tunewise.cli.terminal import Terminal
    from tunewise.commands.plan import check as check_study
    from tunewise.desk.report.terminal.check import Checked, print_known, print_planned, print_remarks
    from tunewise.records import events
    from tunewise.records.events import Event

    terminal = Terminal()

    def show(event: Event) -> None:
        if isinstance(event, events.Checked):
            known = Checked(event.study, event.data, None, event.remarks)
            print_known(known, terminal)
            print_remarks(known, terminal)

    print_planned(check_study(_study(study, model, data, arm, sets), out, show, probe=probe), terminal)
    options = [option for option in sys.argv[2:] if option not in ("--probe", "--no-probe")]
    say(f"\nnext: {shlex.join(['tunewise', 'compare', *options])}")  # the same options as here


@app.command()
def plan(  # noqa: PLR0913 - every parameter is an option of the command
    study: StudyFile = None,
    model: Model = None,
    data: Data = None,
    arm: Arms = None,
    sets: Sets = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Plan for this GPU instead of this machine, for example A100-80GB."),
    ] = None,
    devices: Devices = None,
    prices: Prices = None,
    probe: Probe = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    svg: Svg = None,
    offline: Offline = False,
) -> None:
    """Estimate the memory, time and disk space of every arm.

    Needs only the model's configuration, not its weights.
    """
    from tunewise.cli.terminal import Terminal
    from tunewise.commands.plan import plan as plan_study
    from tunewise.desk.planning.devices import parse_devices
    from tunewise.desk.planning.prices import card_and_price, with_costs
    from tunewise.desk.report.terminal.devices import print_devices
    from tunewise.desk.report.terminal.plan import chart, print_plan
    from tunewise.spec import NO_DATA
    from tunewise.storage.disk import require_output, write_output

    if svg:
        require_output(svg, ".svg")
    numbers = parse_devices(devices) if devices else ()
    asked = _study(study, model, data or (None if study else NO_DATA), arm, sets)
    card, price = card_and_price(asked.machine, gpu, prices)
    missing: list[str] = []
    found = plan_study(asked, card[1].request() if card else None, probe=probe, tell=missing.append)
    found = with_costs(found, price, card[1] if card else None)
    if svg:
        drawn = chart(found)
        write_output(svg, lambda temporary: temporary.write_text(drawn, encoding="utf-8"))
    if as_json:
        say_json(found.model_dump_json(indent=1))
    else:
        print_plan(asked, found, card, Terminal())
        print_devices(found, numbers, Terminal())
    for message in missing:
        say(f"- {message}", error=True)


@app.command()
def init(
    model: Annotated[str, typer.Option(metavar="TEXT", help="Model: tiny (bundled), a folder, or a hub id.")] = "tiny",
    data: Annotated[
        str, typer.Option(metavar="TEXT", help="Data: a file, a folder with train/valid/test files, or a hub id.")
    ] = "builtin:stdlib",
    to: NewStudyFile = Path("study.yaml"),
) -> None:
    """Write a commented study file to start from."""
    from tunewise.cli.template import write_template

    write_template(model, data, to)
    say(f"wrote {to}\nnext: {shlex.join(['tunewise', 'check', str(to)])}")


app.command()(report)
app.command(cls=SeveralPaths)(judge)
app.command(name="list")(list_studies)
app.command()(explain)
app.command()(learn)


@app.command()
def generate(
    folder: Folder,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Prompt, or the text to classify.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="INTEGER", help="Longest answer, in tokens.")] = 64,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow the study to run code that its model brings.")
    ] = False,
    offline: Offline = False,
) -> None:
    """Compare answers of the base and tuned models to a prompt."""
    from tunewise.commands.generate import answers

    for arm, text in answers(folder, prompt, max_new_tokens, trust_remote_code=trust_remote_code).items():
        say(f"--- {arm}\n{text}")


@app.command()
def worker(
    job: Annotated[Path, typer.Argument(help="Job file in the folder jobs/ of a study folder.", show_default=False)],
    to: Annotated[
        Path | None,
        typer.Option(
            "--events", parser=to_write, metavar="PATH", help="Append the events to this file instead of printing them."
        ),
    ] = None,
    offline: Offline = False,
) -> None:
    """Do one job of a study, as its driver asks on other machines.

    Exit status 0: done. 1: failed. 2: refused, with the reason. 5: out of memory. 6: over its time limit. 130: stopped
    and saved. Events are JSON lines.
    """
    from tunewise.executors.worker import read_job, work
    from tunewise.trackers.jsonl import JsonlTracker

    asked = read_job(job)
    tracker = JsonlTracker(to) if to else None
    status = work(asked, tracker.on if tracker else lambda event: say(event.model_dump_json()))
    if tracker:
        tracker.close()
    raise typer.Exit(status)


def main() -> None:
    """Run the command line.

    Exit status 0: everything requested was done. 3: some of it was not. 2: the user's mistake, explained in one
    message. 4: a gate (--fail-on) is closed. 1: a fault of tunewise. 130: interrupted.
    """
    from tunewise.errors import TunewiseError, UserError
    from tunewise.text.safe import redacted

    # an unforeseen fault of tunewise: its traceback may hold text from outside
    sys.excepthook = lambda *of: say(redacted("".join(traceback.format_exception(*of))), error=True)
    try:
        with standard_streams():
            _call()
    except UserError as error:
        say(f"error: {redacted(str(error))}", error=True)
        sys.exit(2)
    except TunewiseError as error:
        say(f"internal error: {redacted(str(error))}", error=True)
        sys.exit(1)


def _call() -> None:
    try:
        app(prog_name="tunewise")  # also with python -m
    except SystemExit as ended:  # typer turns a KeyboardInterrupt into one and prints nothing
        if ended.code == INTERRUPTED:
            _require_threads()
            say("interrupted. Finished runs are kept. To resume, run the same command again:", error=True)
            say(f"next: {shlex.join(['tunewise', *sys.argv[1:]])}", error=True)
        if ended.code:
            raise


def _require_threads() -> None:
    """Raise MachineError if no thread can be started: then OpenBLAS interrupts its own process, like a Ctrl-C."""
    from tunewise.errors import MachineError, refusal

    try:
        threading.Thread(target=int).start()
    except RuntimeError as error:
        raise MachineError(str(refusal(error))) from error


def _study(
    study: Path | None, model: str | None, data: str | None, arm: list[str] | None, sets: list[str] | None
) -> Any:
    from tunewise.cli.words import study_from_options

    return study_from_options(study, model, data, arm or [], sets or [])


def _run(study: Any, out: Path | None, again: bool, gate: Gate | None = None, **options: Any) -> None:
    from tunewise.cli.progress import StudyProgress
    from tunewise.cli.terminal import Terminal
    from tunewise.commands.compare import compare as run_study
    from tunewise.commands.sets import compare_sets

    with StudyProgress(Terminal()) as progress:
        result: Any = (compare_sets if study.sets else run_study)(study, out, progress.on, again=again, **options)
    (show_sets if study.sets else show_report)(result)
    passes = gate is None or gate.lets_pass(result.report, study)
    if result.unfinished:
        show_unfinished(result.unfinished)
        raise typer.Exit(UNFINISHED)
    if not passes:
        raise typer.Exit(CLOSED)
