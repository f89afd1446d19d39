"""The closed lists of words that a study may use, and the version of the numerics."""

from typing import Annotated, Literal

from pydantic import AfterValidator

from tunewise.text.safe import check_source

Split = Literal["train", "valid", "test"]


# What the splits of a data set are called, in files and on the hub; the first that is there counts.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "validation", "val", "dev", "eval"),
    "test": ("test",),
}


NO_DATA = "builtin:none"  # a study that can only be planned


Role = Literal["base", "short", "tune", "confirm"]  # short: a trial on a part of the steps


Precision = Literal["bf16", "fp32"]


Device = Literal["cpu", "cuda", "mps"]


Attention = Literal["eager", "sdpa"]


CostName = Literal["trainable_parameters", "train_seconds", "peak_memory_bytes", "saved_bytes"]


# Raised whenever the loop's or the scores' results change, so that no old record is mixed with new ones.
NUMERICS = 7

# The name of a file, a folder, a hub id or something bundled: no control characters, no secrets.
Source = Annotated[str, AfterValidator(check_source)]
