"""`targets: auto`: one arm for every placement of LoRA, at ranks that give all of them equal parameter counts."""

from collections.abc import Mapping

from tunewise.errors import SpecError
from tunewise.spec.methods import HeadMethod, LoraMethod, Method
from tunewise.spec.study import StudySpec
from tunewise.spec.tasks import TASKS, Task

PLACEMENTS = ("qkv", "attention", "mlp", "all-linear")
TOLERANCE = 0.05  # largest relative difference between the parameter counts of two placements
MOST = 512  # highest rank that is proposed

Costs = Mapping[str, int]  # placement -> parameters that one more rank adds there


def expand(study: StudySpec, costs: Mapping[str, Costs]) -> StudySpec:
    """The study with each `targets: auto` arm replaced by one arm per placement.

    `costs`: of the open arms. Raises SpecError if no ranks match, or if a name is taken.
    """
    if not any(method.has_open_targets for method in study.arms.values()):
        return study
    arms: dict[str, Method] = {}
    for name, method in study.arms.items():
        if not method.has_open_targets:
            arms[name] = method
            continue
        for placement, of_placement in placed(name, study.lora_arms[name], costs[name]).items():
            if placement in study.arms or placement in arms:
                raise SpecError(
                    f"arm '{name}' with targets: auto becomes an arm '{placement}', but the study already "
                    "has one. Rename one of them."
                )
            arms[placement] = of_placement
    return study.replace(arms=arms)


def arm_name(name: str, placement: str) -> str:
    """Name of the arm for one placement."""
    return f"{name}-{placement}"


def placed(name: str, method: LoraMethod, costs: Costs) -> dict[str, LoraMethod]:
    """Arms of every placement in `costs`, by name. The largest one has the given rank, the others a higher rank.

    Raises SpecError if no whole ranks bring the parameter counts within 5% of each other.
    """
    assert isinstance(method.rank, int), "checked by the spec"
    ranks = _ranks(method.rank, costs)
    if not _match(ranks, costs):
        works = [rank for rank in range(1, MOST + 1) if _match(_ranks(rank, costs), costs)]
        nearest = sorted(sorted(works, key=lambda rank: abs(rank - method.top_rank))[:3])
        told = ", ".join(f"{placement} {rank * costs[placement]:,}" for placement, rank in ranks.items())
        raise SpecError(
            f"arm '{name}': with targets: auto and rank {method.rank} no whole ranks bring the placements' parameters "
            f"within {TOLERANCE:.0%} of each other ({told}). Try rank {', '.join(map(str, nearest))}."
        )
    return {arm_name(name, p): method.replace(targets=p, rank=rank) for p, rank in ranks.items()}


def _ranks(rank: int, costs: Costs) -> dict[str, int]:
    budget = rank * max(costs.values())
    return {placement: max(round(budget / cost), 1) for placement, cost in costs.items()}


def _match(ranks: Mapping[str, int], costs: Costs) -> bool:
    return alike([rank * costs[placement] for placement, rank in ranks.items()])


def alike(parameters: list[int]) -> bool:
    """True if the largest of these counts is within 5% of the smallest."""
    return max(parameters) <= (1 + TOLERANCE) * min(parameters)


HEAD_ARM = "head"


def with_head_arm(study: StudySpec, task: Task) -> StudySpec:
    """The study, with an arm that trains only the head if it classifies and has no such arm.

    Raises SpecError if another arm has that name.
    """
    if not TASKS[task].has_classes or study.head_arm:
        return study
    if HEAD_ARM in study.arms:
        raise SpecError(
            f"arm '{HEAD_ARM}' is {study.arms[HEAD_ARM].method}, but a classification study needs "
            "this name for the arm that trains only the head. Rename this arm."
        )
    return study.replace(arms={**study.arms, HEAD_ARM: HeadMethod()})
