"""The arm that every classification has: the head alone on the frozen base, over which gain is measured."""

from tunewise.errors import SpecError
from tunewise.spec import TASKS, HeadMethod, StudySpec, Task

HEAD_ARM = "head"


def with_head_arm(study: StudySpec, task: Task) -> StudySpec:
    """The study with an arm that trains the head alone, where its task is classification and it has none.

    Raises SpecError where another arm has its name.
    """
    if not TASKS[task].has_classes or study.head_arm:
        return study
    if HEAD_ARM in study.arms:
        raise SpecError(
            f"arm '{HEAD_ARM}' is {study.arms[HEAD_ARM].method}, but a classification has an arm of this name that "
            "trains the head alone, to be compared with. Give this one another name."
        )
    return study.replace(arms={**study.arms, HEAD_ARM: HeadMethod()})
