"""Closed lists of values that a study may use, and the version of the numerics."""

from typing import Annotated, Literal

from pydantic import AfterValidator

from tunewise.text.safe import check_source

Split = Literal["train", "valid", "test"]


# Names of the splits of a data set, in files and on the hub; the first one found is used.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "validation", "val", "dev", "eval"),
    "test": ("test",),
}


NO_DATA = "builtin:none"  # a study that can only be planned


Role = Literal["base", "short", "tune", "confirm"]  # short: a trial on part of the steps


Precision = Literal["bf16", "fp32"]


Device = Literal["cpu", "cuda", "mps"]


ExecutorName = Literal["local", "ray", "slurm"]


Attention = Literal["eager", "sdpa"]


CostName = Literal["trainable_parameters", "train_seconds", "peak_memory_bytes", "saved_bytes"]


# Raised whenever results of the loop or the scores change, so that old records are not mixed with new ones.
NUMERICS = 7

# Name of a file, folder, hub id or bundled item: no control characters, no secrets.
Source = Annotated[str, AfterValidator(check_source)]
