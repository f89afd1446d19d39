"""What the laws are tested on: a real Llama with grouped queries, the bundled GPT-2, and random small families."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lab_fixtures import (
    _one_thread,
    _quiet,
    classifier,
    config_of,
    examples_of,
    language_model,
    model_folder,
    tokenizer,
)
from tunewise.lab.models.load import BUNDLED, Base, load_base, load_config, load_tokenizer

STORIES = Path(__file__).parents[3] / "shared" / "data" / "weights" / "stories260k"
LABELS = ("negative", "neutral", "positive")

__all__ = [
    "_one_thread",
    "_quiet",
    "classifier",
    "config_of",
    "examples_of",
    "language_model",
    "model_folder",
    "tokenizer",
]


@pytest.fixture(scope="session")
def folder_of(model_folder: Callable[[str], Path]) -> Callable[[str], Path]:
    """The folder of 'stories260k' (skips where it is absent), 'tiny', or a random model of a family ('bert', ...)."""

    def folder(name: str) -> Path:
        if name != "stories260k":
            return BUNDLED.get(name) or model_folder(name)
        if not STORIES.is_dir():
            pytest.skip("stories260k lies beside the repository, and is not there")
        return STORIES

    return folder


@pytest.fixture(scope="session")
def base_of(folder_of: Callable[[str], Path]) -> Callable[..., Base]:
    """A fresh base: `base_of(name, task="sft")`, task 'classify' being into three classes."""

    def load(name: str, task: str = "sft") -> Base:
        folder = str(folder_of(name))
        tokens = load_tokenizer(folder, load_config(folder, task, False), False)  # type: ignore[arg-type]
        return load_base(folder, task, LABELS if task == "classify" else (), tokens, False)  # type: ignore[arg-type]

    return load
