"""The small models and examples that the tests of the lab are made of."""

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
