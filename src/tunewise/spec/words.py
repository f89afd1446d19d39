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


Quantization = Literal["nf4", "nf4-double"]  # of a base's linear weights; double: its scales are quantized, too


# Names of the untouched base and of its quantized forms, in the place of the name of an arm.
BASES: dict[Quantization | None, str] = {None: "base", "nf4": "base-nf4", "nf4-double": "base-nf4-double"}


# Values of an arm that would make another arm than it seems -> why, and what to use.
REFUSED = {
    "loftq": "peft's loftq rounds the base with a quantizer of its own, so the adapter fits no base in 4 bits that "
    "others can load. Use base: nf4, or variant pissa, which starts from the singular vectors of the base. An adapter "
    "trained with loftq elsewhere can be merged into its base (tunewise adapter merge)",
    "int8": "int8 of bitsandbytes also rounds the inputs of every layer on a GPU (arXiv 2208.07339), so the gradient "
    "is not that of the loss. Use nf4 or nf4-double, which round weights alone",
}


ExecutorName = Literal["local", "ray", "slurm"]


Scoring = Literal["exact", "stored"]  # of confirmed runs: in fp32, or in the precision of training


Attention = Literal["eager", "sdpa"]


CostName = Literal["trainable_parameters", "train_seconds", "peak_memory_bytes", "saved_bytes"]


# Raised whenever results of the loop or the scores change, so that old records are not mixed with new ones.
NUMERICS = 7

# Name of a file, folder, hub id or bundled item: no control characters, no secrets.
Source = Annotated[str, AfterValidator(check_source)]


def _several(sources: tuple[str, ...]) -> tuple[str, ...]:
    if twice := [source for source in sources if sources.count(source) > 1]:
        raise ValueError(f"{twice[0]} is named twice, but copies are not seeds. Name the folder of every seed once")
    if len(sources) == 1:
        raise ValueError(f"{sources[0]} is only one folder. Write path: {sources[0]}, or name a folder for every seed")
    return sources


Sources = Annotated[tuple[Source, ...], AfterValidator(_several)]
