"""The GPUs of assets/gpus.yaml, and lookup by name."""

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from tunewise.assets import table
from tunewise.errors import SpecError
from tunewise.records.plan import PlanRequest
from tunewise.spec import Precision
from tunewise.text.suggest import lookup


class Gpu(NamedTuple):
    """One GPU. Memory in units of 10^9 bytes, as sold, which is about what a process can use."""

    memory_gb: int
    bandwidth_gb_per_second: float
    bf16_teraflops: float | None  # dense, fp32 accumulation; None: the card has no bf16
    source: str

    @property
    def memory_bytes(self) -> int:
        """Of the whole card."""
        return self.memory_gb * 10**9

    def request(self) -> PlanRequest:
        """A plan for this card."""
        precision: Precision = "fp32" if self.bf16_teraflops is None else "bf16"
        return PlanRequest(device="cuda", precision=precision, memory_bytes=self.memory_bytes)


@functools.cache
def known_gpus() -> Mapping[str, Gpu]:
    """Every card by name, in the order of the file."""
    return MappingProxyType({name: Gpu(**card) for name, card in table("gpus.yaml").items()})


MAKERS = re.compile("nvidia|amd|geforce|instinct|tesla")
MODEL = re.compile("(?!rtx)(?:(?<=rtx)|(?<![a-z0-9]))[a-z]*[0-9]+")  # "h100" of "h100sxm", "4090" of "rtx4090"


def find_gpu(name: str) -> tuple[str, Gpu]:
    """The GPU of this name, ignoring case, hyphens and vendor. Raises SpecError listing those of its family."""
    cards = known_gpus()
    known = {_bare(key): key for key in cards}
    if key := known.get(_bare(name)):
        return key, cards[key]
    family = [key for key in cards if _model(key) == _model(name)]
    if family := [key for key in family if _bare(key).startswith(_bare(name))] or family:
        meant = " or ".join(f"'{key}'" for key in family)
        raise SpecError(f"unknown GPU '{name}'. Did you mean {meant}? Known: {', '.join(cards)}.")
    return name, lookup(cards, name, "GPU")


def _bare(name: str) -> str:
    return re.sub("[^a-z0-9]", "", MAKERS.sub("", name.lower()))


def _model(name: str) -> str | None:
    """The model shared by a family of GPUs, such as "h100"; None: the name has no number."""
    found = MODEL.search(MAKERS.sub("", name.lower()))
    return found[0] if found else None
