"""What several devices cannot do together yet (`machine.devices_per_run`), refused by name before anything is made."""

from tunewise.errors import SpecError
from tunewise.executors.local.shares import shared
from tunewise.spec import TASKS, FullMethod, LoraMethod, Method, StudySpec


def require_shardable(study: StudySpec) -> None:
    """Raise SpecError for a study whose runs several devices cannot make, or for which this machine has too few.

    Call again once the task is known.
    """
    if study.machine.devices_per_run == 1:
        return
    key = f"machine.devices_per_run: {study.machine.devices_per_run}"
    for name, arm in study.arms.items():
        if instead := _alternative(arm):
            raise SpecError(f"{key} is not possible with arms.{name}: {instead}, or remove machine.devices_per_run.")
    if study.task and TASKS[study.task].has_classes:
        raise SpecError(
            f"{key} is possible only for tasks sft and lm, and this study's task is {study.task}. "
            "Remove machine.devices_per_run."
        )
    shared(study.machine)


def _alternative(arm: Method) -> str | None:
    """What does not work with shards, and the nearest that does; None: it works."""
    match arm:
        case FullMethod(extract=extract) if extract:
            return "extract needs whole weights in one process. Remove extract"
        case FullMethod():
            return None
        case LoraMethod(variant="pissa" | "olora" as variant):
            return f"{variant} rewrites the weights of the base, which was not tried in parts. Use variant: rslora"
        case LoraMethod(base=str() as base):
            return f"base: {base} stores weights in packed form, which cannot be divided. Remove base"
        case LoraMethod(rank="auto"):
            return "rank: auto truncates whole adapters. Set a rank, such as 8"
        case LoraMethod():
            return None
    return f"method {arm.method} was not tried in parts. Use method lora or full"
