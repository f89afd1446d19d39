"""Options of the commands, and what they do before a command runs."""

import os
from pathlib import Path
from typing import Annotated

import typer

from tunewise.text.output import say

# read by huggingface_hub, datasets and transformers when they are first imported, here or in a worker
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def _go_offline(asked: bool) -> bool:
    if asked:
        os.environ.update(OFFLINE)
    return asked


def to_write(text: str) -> Path:
    """The path that an option names, to be written. Raises SpecError for an empty one, such as an unset variable."""
    from tunewise.errors import SpecError

    if not text.strip():
        raise SpecError("an option that names what to write is empty. Give it a path, or leave the option out.")
    return Path(text)


def print_versions(is_asked: bool) -> None:
    """What a report of a bug needs, read from the packages' metadata: to import them would take seconds."""
    if is_asked:
        from importlib.metadata import version
        from platform import python_version

        libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
        say(f"tunewise {version('tunewise')} (python {python_version()}, {libraries})")
        raise typer.Exit


Offline = Annotated[
    bool,
    typer.Option("--offline", callback=_go_offline, help="make no network call: only what is on this machine"),
]

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

Again = Annotated[
    bool, typer.Option("--again", help="make finished runs again that were made with other inputs or libraries")
]
AcceptStale = Annotated[
    bool, typer.Option("--accept-stale", help="also take runs made with another base, other libraries or threads")
]

Probe = Annotated[bool, typer.Option(help="do a few steps of every arm to tell how long the study takes")]
Svg = Annotated[
    Path | None,
    typer.Option(parser=to_write, metavar="PATH", help="also draw what fills the memory as a chart into this .svg"),
]
Records = Annotated[
    Path | None,
    typer.Option(parser=to_write, metavar="PATH", help="also write every run as a row of this .csv or .parquet file"),
]
PeftResults = Annotated[
    list[Path] | None,
    typer.Option(help="a result JSON of peft's method_comparison suite, to stand beside (repeatable)"),
]
NewStudyFile = Annotated[Path, typer.Option(parser=to_write, metavar="PATH", help="the study file to write")]
