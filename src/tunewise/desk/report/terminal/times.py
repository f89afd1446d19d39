"""Wording of planned times."""

from tunewise.records.plan import ArmPlan, StudyPlan, StudySeconds
from tunewise.text.numbers import duration


def at_least(text: str, plan: StudyPlan | ArmPlan) -> str:
    """'over 2.0 s' if the time is a lower bound, because some arm's step was not actually run."""
    arms = plan.arms.values() if isinstance(plan, StudyPlan) else (plan,)
    return f"over {text}" if any(arm.speed and arm.speed.source == "products" for arm in arms) else text


def study_duration(seconds: StudySeconds, plan: StudyPlan) -> str:
    """'12 min 04 s, or 20 min 10 s if every search reaches its cap; later looks add up to 9 min 30 s'."""
    least, most = duration(seconds.least), duration(seconds.most)
    text = least if least == most else f"{least}, or {most} if every search reaches its cap"
    more = "" if seconds.second_look is None else f"; later looks add up to {duration(seconds.second_look)}"
    return at_least(text + more, plan)
