"""Options that several commands have."""

import os
from pathlib import Path
from typing import Annotated

import typer

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


Offline = Annotated[
    bool,
    typer.Option("--offline", callback=_go_offline, help="make no network call: only what is on this machine"),
]
