"""Wording of planned times."""

from collections.abc import Callable

from tunewise.records.plan import ArmPlan, PlannedCosts, StudyPlan, StudySeconds
from tunewise.text.numbers import duration, money


def at_least(text: str, plan: StudyPlan | ArmPlan) -> str:
    """'over 2.0 s' if the time is a lower bound, because some arm's step was not actually run."""
    arms = plan.arms.values() if isinstance(plan, StudyPlan) else (plan,)
    return f"over {text}" if any(arm.speed and arm.speed.source == "products" for arm in arms) else text


def study_duration(seconds: StudySeconds, plan: StudyPlan) -> str:
    """'12 min 04 s, or 20 min 10 s if every search reaches its cap; later looks add up to 9 min 30 s'."""
    return at_least(_extents(seconds, duration), plan)


def study_cost(costs: PlannedCosts, plan: StudyPlan) -> str | None:
    """'0.50 EUR, or 0.84 EUR if every search reaches its cap', and so on; None: the time is not known."""
    if costs.least is None:
        return None
    return at_least(_extents(costs, lambda cost: money(cost, costs.price.currency)), plan)


def _extents(of: StudySeconds | PlannedCosts, shown: Callable[[float | None], str]) -> str:
    least, most = shown(of.least), shown(of.most)
    text = least if least == most else f"{least}, or {most} if every search reaches its cap"
    return text if of.second_look is None else f"{text}; later looks add up to {shown(of.second_look)}"
