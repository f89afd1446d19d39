"""Small models for the conformance suites: one suite for each seam, and every implementation must pass it."""

from lab_fixtures import _one_thread, _quiet, examples_of, model_folder, tokenizer

__all__ = ["_one_thread", "_quiet", "examples_of", "model_folder", "tokenizer"]
