"""What several devices cannot do together yet (`machine.devices_per_run`), refused by name before anything is made."""

from tunewise.errors import SpecError
from tunewise.executors.local.shares import shared
from tunewise.spec import TASKS, StudySpec, whole_because


def require_shardable(study: StudySpec) -> None:
    """Raise SpecError for a study whose runs several devices cannot make, or for which this machine has too few.

    Call again once the task is known.
    """
    if study.machine.devices_per_run == 1:
        return
    key = f"machine.devices_per_run: {study.machine.devices_per_run}"
    for name, arm in study.arms.items():
        if instead := whole_because(arm):
            raise SpecError(f"{key} is not possible with arms.{name}: {instead}, or remove machine.devices_per_run.")
    if study.task and TASKS[study.task].has_classes:
        raise SpecError(
            f"{key} is possible only for tasks sft and lm, and this study's task is {study.task}. "
            "Remove machine.devices_per_run."
        )
    shared(study.machine)
