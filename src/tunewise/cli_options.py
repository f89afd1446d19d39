"""Options that several commands have."""

import os
from typing import Annotated

import typer

# read by huggingface_hub, datasets and transformers when they are first imported, here or in a worker
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def _go_offline(asked: bool) -> bool:
    if asked:
        os.environ.update(OFFLINE)
    return asked


Offline = Annotated[
    bool,
    typer.Option("--offline", callback=_go_offline, help="make no network call: only what is on this machine"),
]
