"""The study that runs: what its author left open is filled in."""

from tunewise.spec.study import StudySpec
from tunewise.spec.tasks import Task


class ResolvedStudy(StudySpec):
    """A study whose task is known and whose every arm is named.

    Made by desk/protocol/resolve.py alone. The schedule, the drafts of runs and the fairness rules take nothing less.
    """

    task: Task
