"""Specs and summaries with a plain value in every field, for tests that care about a few of them."""

from typing import Any

from tunewise.records import DataSummary, SplitSummary
from tunewise.spec import FullMethod, Inputs, RunSpec, SamplesSpec, TrainSpec


def make_inputs(**changes: Any) -> Inputs:
    """Fingerprints of one letter each; no general text, nothing trained elsewhere."""
    content = {"base": "b", "tokenizer": "t", "data": "d", "general": None, "existing": None, "versions": {}}
    return Inputs.model_validate({**content, **changes})


def make_data_summary(**changes: Any) -> DataSummary:
    """Prepared data of no rows for a small model on CPU, `changes` apart."""
    content = {
        "key": "data",
        "task": "sft",
        "labels": (),
        "splits": (),
        "example_prompt": "",
        "example_supervised": "",
        "notes": (),
        "near_duplicates": 0,
        "inputs": make_inputs(),
        "model_type": "gpt2",
        "hidden_size": 32,
        "num_new_parameters": 0,
        "arms": {},
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
    }
    return DataSummary.model_validate({**content, **changes})


def make_train_summary(rows: int) -> dict[str, Any]:
    """A training set of `rows` rows, all other counts 0."""
    counts = {name: 0 for name in SplitSummary.model_fields if name not in ("split", "source", "rows")}
    return {"split": "train", "source": "train.jsonl", "rows": rows, **counts}


def make_run_spec(**changes: Any) -> RunSpec:
    """A confirmed run of full fine-tuning on one thread of a CPU, `changes` apart."""
    content = {
        "arm": "an-arm",
        "role": "confirm",
        "model": "tiny",
        "trust_remote_code": False,
        "task": "sft",
        "method": FullMethod(),
        "train": TrainSpec(),
        "learning_rate": 1e-3,
        "head_learning_rate": None,
        "seed": 1,
        "checkpoint": "best",
        "score_splits": ("valid", "test"),
        "samples": SamplesSpec(),
        "forgetting_points": 0,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "inputs": make_inputs(),
    }
    return RunSpec.model_validate({**content, **changes})
