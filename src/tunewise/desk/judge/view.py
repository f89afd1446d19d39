"""judge.json: verdicts on logs, as plain data. Terminal and page read nothing else."""

from tunewise.desk.fairness.finding import Finding
from tunewise.desk.judge.contrasts import Seeds
from tunewise.desk.statistics.verdict import Verdict
from tunewise.spec import Frozen

JUDGE_VERSION = 1


class JudgedVerdict(Verdict):
    """The verdict on one arm, on one task or on the mean of several."""

    tasks: tuple[str, ...]
    are_new_tasks: bool  # True: tasks are the units, and the verdict is for new tasks of the same kind
    seeds: Seeds
    num_runs: dict[str, int]  # by arm: this one and full
    means: dict[str, float]  # by arm: the metric, mean over its runs
    sentence: str
    needs: str | None  # what would settle it; None: decided, or more would not help

    @property
    def is_mean(self) -> bool:
        """Whether it is about the mean of several tasks."""
        return len(self.tasks) > 1


class FlippedItem(Frozen):
    """An item on which an arm and full differ most. Texts are None if the log holds none."""

    id: str
    difference: float  # arm - full, mean over runs
    is_won: bool
    prompt: str | None
    target: str | None
    answer: str | None  # of the first run of the arm
    answer_of_full: str | None


class Flips(Frozen):
    """The items of one task on which an arm and full differ."""

    arm: str
    task: str
    num_won: int
    num_lost: int
    num_equal: int
    lost: tuple[FlippedItem, ...]  # largest losses first, at most MOST_SHOWN
    won: tuple[FlippedItem, ...]


class RunView(Frozen):
    """One run that was read."""

    arm: str
    name: str
    seed: str | None
    model: str | None
    training: dict[str, str] = {}  # settings that its trainer left
    losses: tuple[tuple[int, float], ...] = ()  # training loss by step, as its trainer logged it


class JudgeReport(Frozen):
    """What `tunewise judge` found."""

    schema_version: int = JUDGE_VERSION
    tunewise_version: str
    name: str
    question: str
    headline: str
    runs: tuple[RunView, ...]
    verdicts: tuple[JudgedVerdict, ...]  # the means first, then task by task
    flips: tuple[Flips, ...]
    findings: tuple[Finding, ...]

    def at_gate(self) -> tuple[JudgedVerdict, ...]:
        """The verdicts that a gate asks about: the means if there are any, else all."""
        return tuple(verdict for verdict in self.verdicts if verdict.is_mean) or self.verdicts
