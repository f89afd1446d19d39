"""The resolved study, in which everything that its author left open is filled in."""

from tunewise.spec.study import StudySpec
from tunewise.spec.tasks import Task


class ResolvedStudy(StudySpec):
    """A study whose task is known and whose arms are all definite.

    Only desk/protocol/resolve.py makes one. The schedule, the drafts of runs and the fairness rules accept nothing
    else.
    """

    task: Task
