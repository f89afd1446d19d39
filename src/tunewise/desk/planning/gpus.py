"""Graphics cards that people tune models on: what their makers say of them. What is worked out from it is derived, not
measured."""

import re
from typing import NamedTuple

from tunewise.errors import SpecError
from tunewise.records.plan import PlanRequest
from tunewise.spec import Precision
from tunewise.text.suggest import lookup


class Gpu(NamedTuple):
    """One card. Memory in units of 10^9 bytes as it is sold, which is about what a process can use of it."""

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


AMPERE_GEFORCE = "NVIDIA Ampere GA102 architecture whitepaper"
ADA_GEFORCE = "NVIDIA Ada GPU architecture whitepaper"
GPUS: dict[str, Gpu] = {
    "T4": Gpu(16, 320, None, "NVIDIA T4 datasheet"),
    "V100-32GB": Gpu(32, 900, None, "NVIDIA V100 datasheet (SXM2)"),
    "A10": Gpu(24, 600, 125, "NVIDIA A10 datasheet"),
    "A40": Gpu(48, 696, 149.7, "NVIDIA A40 datasheet"),
    "A100-40GB": Gpu(40, 1555, 312, "NVIDIA A100 datasheet (PCIe and SXM)"),
    "A100-80GB": Gpu(80, 2039, 312, "NVIDIA A100 datasheet (SXM)"),
    "L4": Gpu(24, 300, 121, "NVIDIA L4 datasheet, half of the figure with sparsity"),
    "L40S": Gpu(48, 864, 362, "NVIDIA L40S datasheet"),
    "H100-80GB": Gpu(80, 3350, 989, "NVIDIA H100 datasheet (SXM), half of the figure with sparsity"),
    "H100-PCIe": Gpu(80, 2000, 756, "NVIDIA H100 datasheet (PCIe), half of the figure with sparsity"),
    "H200": Gpu(141, 4800, 989, "NVIDIA H200 datasheet (SXM), half of the figure with sparsity"),
    "RTX-3080-10GB": Gpu(10, 760, 59.5, AMPERE_GEFORCE),
    "RTX-3090": Gpu(24, 936, 71, AMPERE_GEFORCE),
    "RTX-4080": Gpu(16, 717, 97.5, ADA_GEFORCE),
    "RTX-4090": Gpu(24, 1008, 165.2, ADA_GEFORCE),
    "RTX-5090": Gpu(32, 1792, 209.5, "NVIDIA RTX Blackwell GPU architecture whitepaper"),
    "RTX-A6000": Gpu(48, 768, 154.8, "NVIDIA RTX A6000 datasheet and GA102 whitepaper"),
    "MI300X": Gpu(192, 5300, 1307, "AMD Instinct MI300X datasheet"),
}


MAKERS = re.compile("nvidia|amd|geforce|instinct|tesla")
MODEL = re.compile("(?!rtx)(?:(?<=rtx)|(?<![a-z0-9]))[a-z]*[0-9]+")  # "h100" of "h100sxm", "4090" of "rtx4090"


def find_gpu(name: str) -> tuple[str, Gpu]:
    """The card of this name, whatever its capitals, hyphens and maker. Raises SpecError with those of its family."""
    known = {_bare(key): key for key in GPUS}
    if key := known.get(_bare(name)):
        return key, GPUS[key]
    family = [key for key in GPUS if _model(key) == _model(name)]
    if family := [key for key in family if _bare(key).startswith(_bare(name))] or family:
        meant = " or ".join(f"'{key}'" for key in family)
        raise SpecError(f"unknown GPU '{name}'. Did you mean {meant}? Known: {', '.join(GPUS)}.")
    return name, lookup(GPUS, name, "GPU")


def _bare(name: str) -> str:
    return re.sub("[^a-z0-9]", "", MAKERS.sub("", name.lower()))


def _model(name: str) -> str | None:
    """What the cards of a family have in common, such as "h100"; None: the name has no number."""
    found = MODEL.search(MAKERS.sub("", name.lower()))
    return found[0] if found else None
