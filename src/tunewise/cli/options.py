"""Options that several commands share, and their callbacks."""

import os
from pathlib import Path
from typing import Annotated

import typer

from tunewise.text.output import say

# huggingface_hub, datasets and transformers read these when first imported, here or in a worker
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def _go_offline(asked: bool) -> bool:
    if asked:
        os.environ.update(OFFLINE)
    return asked


def to_write(named: str | Path) -> Path:
    """Path of an output that an option names. Raises SpecError if it is empty, for example an unset variable.

    Newer versions of typer also pass a default, which is a path already.
    """
    from tunewise.errors import SpecError

    if not str(named).strip():
        raise SpecError("an option that names an output is empty. Give it a path, or leave the option out.")
    return Path(named)


def print_versions(is_asked: bool) -> None:
    """Print the versions that a bug report needs, from package metadata: importing the packages takes seconds."""
    if is_asked:
        from importlib.metadata import version
        from platform import python_version

        libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
        say(f"tunewise {version('tunewise')} (python {python_version()}, {libraries})")
        raise typer.Exit


Offline = Annotated[
    bool,
    typer.Option("--offline", callback=_go_offline, help="Use only files on this machine; make no network call."),
]

StudyFile = Annotated[
    Path | None,
    typer.Argument(help="Study file (YAML), for example study.yaml.", show_default=False),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Base model: tiny (bundled), a folder, or a hub id. Overrides the study file."),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Data: a file, a folder with train/valid/test files, a hub id, or builtin:tickets."
    ),
]
Arms = Annotated[
    list[str] | None,
    typer.Option(
        "--arm", metavar="NAME=METHOD,...", help="Additional arm, for example lora-r4=lora,rank=4. Repeatable."
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Key of the study to override, for example train.epochs=1. Repeatable."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(parser=to_write, metavar="PATH", help="Study folder [default: runs/NAME, by the name of the study]."),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Limit of machine time, for example 2h. Reduces learning-rate trials and seeds equally for all arms.",
    ),
]
Workers = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Runs made at the same time: a number, or auto for one on every GPU."),
]
ExecutorOption = Annotated[
    str | None,
    typer.Option("--executor", metavar="TEXT", help="Who makes the runs: local (this machine), ray or slurm."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="TEXT",
        help="Ray cluster: auto (the one on this machine) or HOST:PORT [default: a new one of this machine alone].",
    ),
]
Folder = Annotated[Path, typer.Argument(help="Study folder, for example runs/quickstart.")]

Again = Annotated[bool, typer.Option("--again", help="Repeat finished runs whose inputs or libraries have changed.")]
StopIfHopeless = Annotated[
    float,
    typer.Option(
        "--stop-if-hopeless",
        metavar="NUMBER",
        min=0.0,
        max=1.0,
        help="End after the search if no arm has this chance of an answer, for example 0.1.",
    ),
]
AcceptStale = Annotated[
    bool,
    typer.Option("--accept-stale", help="Accept runs made with another base, other libraries or another thread count."),
]

Probe = Annotated[bool, typer.Option(help="Time a few steps of every arm to estimate how long the study takes.")]
Svg = Annotated[
    Path | None,
    typer.Option(parser=to_write, metavar="PATH", help="Also save a chart of the memory breakdown as this .svg file."),
]
Prices = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Your price per hour of each card (YAML), for the cost on --gpu."),
]
Devices = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Also plan runs on several devices of a machine together, for example 1,2,4,8."),
]
Records = Annotated[
    Path | None,
    typer.Option(parser=to_write, metavar="PATH", help="Also write one row per run to this .csv or .parquet file."),
]
PeftResults = Annotated[
    list[Path] | None,
    typer.Option(metavar="PATH", help="Result JSON of peft's method_comparison suite to compare with. Repeatable."),
]
NewStudyFile = Annotated[Path, typer.Option(parser=to_write, metavar="PATH", help="Study file to write.")]
