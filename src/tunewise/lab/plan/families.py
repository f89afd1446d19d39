"""Plans of many arms that differ only in rank: the lowest and the highest are traced, the others interpolated.

Weights, gradients, optimizer state, activations and FLOPs of LoRA grow linearly with the rank. A peak is the largest of
several such sums, so between two ranks it is at most the interpolated value.
"""

from collections.abc import Mapping
from typing import Protocol

from tunewise.records import TrainableSummary
from tunewise.records.plan import ArmPlan, PeakMemory
from tunewise.spec import LoraMethod, Method, canonical_json

FEWEST = 5  # arms of a family; fewer are all traced
BESIDES_RANK = {"rank", "max_rank", "alpha", "init_scale", "learning_rate", "rates"}


class Tracer(Protocol):
    """Plans one arm."""

    def __call__(self, arm: Method, check: bool = True) -> ArmPlan:
        """`check`: also compare a planned step with a real one of a small model."""


def plan_arms(arms: Mapping[str, Method], plan: Tracer) -> dict[str, ArmPlan]:
    """Plans of all arms, by name."""
    families: dict[str, dict[str, LoraMethod]] = {}
    for name, arm in arms.items():
        if isinstance(arm, LoraMethod):
            key = canonical_json(arm.model_dump(mode="json", exclude=BESIDES_RANK))
            families.setdefault(key, {})[name] = arm
    found: dict[str, ArmPlan] = {}
    for family in families.values():
        if len(family) >= FEWEST:
            found |= _between(family, plan)
    return {name: found.get(name) or plan(arm) for name, arm in arms.items()}


def _between(family: Mapping[str, LoraMethod], plan: Tracer) -> dict[str, ArmPlan]:
    lowest, highest = (end(family.values(), key=lambda arm: arm.top_rank) for end in (min, max))
    high = plan(highest)
    low = plan(lowest, check=False) if lowest.top_rank < highest.top_rank else high
    low = low.replace(is_checked=high.is_checked)  # the operations of a step do not depend on the rank
    width = max(1, highest.top_rank - lowest.top_rank)
    return {
        name: _at(low, high, (arm.top_rank - lowest.top_rank) / width).replace(tuned=_tuned(low, lowest, arm))
        for name, arm in family.items()
    }


def _tuned(low: ArmPlan, lowest: LoraMethod, arm: LoraMethod) -> TrainableSummary:
    """What an arm trains: every additional rank adds the same number of parameters."""
    more = (arm.top_rank - lowest.top_rank) * (low.tuned.rank_parameters or 0)
    return low.tuned.replace(
        trainable_parameters=low.tuned.trainable_parameters + more,
        total_parameters=low.tuned.total_parameters + more,
        scale=arm.scale,
    )


def _at(low: ArmPlan, high: ArmPlan, share: float) -> ArmPlan:
    """The plan at this fraction of the way from the lowest rank to the highest."""
    if share == 0 or low.step is None or high.step is None:
        return low
    if share == 1:
        return high

    def between(name: str) -> int:
        first, last = getattr(low, name) or 0, getattr(high, name) or 0
        return round(first + share * (last - first))

    names = ("flops_per_token", "scoring_flops_per_token", "saved_bytes", "loading")
    batches = (low.largest_micro_batch, high.largest_micro_batch)
    return low.replace(
        step=_peak(low.step, high.step, share),
        evaluation=_peak(low.evaluation, high.evaluation, share) if low.evaluation and high.evaluation else None,
        **{name: between(name) for name in names},
        largest_micro_batch=min(filter(None, batches)) if all(batches) else None,
    )


def _peak(low: PeakMemory, high: PeakMemory, share: float) -> PeakMemory:
    first, last = low.model_dump(), high.model_dump()
    return PeakMemory(**{name: round(first[name] + share * (last[name] - first[name])) for name in first})
