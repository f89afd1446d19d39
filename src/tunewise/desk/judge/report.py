"""From the logs of all runs to the report."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from tunewise.desk.judge.findings import findings_on, require_not_swapped
from tunewise.desk.judge.flips import flips_of
from tunewise.desk.judge.pairing import pair_tasks
from tunewise.desk.judge.verdicts import FULL, Judged, judge_tasks
from tunewise.desk.judge.view import JudgedVerdict, JudgeReport, RunView
from tunewise.desk.judge.words import headline, judged_sentence, needs, question
from tunewise.inputs.logs.log import RunLog


def build_judgment(runs: Mapping[str, Sequence[RunLog]], margin: str | None) -> JudgeReport:
    """The report on the runs of every arm, `full` among them. Raises DataError or SpecError."""
    require_not_swapped(runs)
    tasks, lacking = pair_tasks(runs)
    means, of_tasks = judge_tasks(tasks, runs, margin)
    arms = [arm for arm in runs if arm != FULL]
    return JudgeReport(
        tunewise_version=version("tunewise"),
        name=f"{', '.join(arms)} against full",
        question=question(arms, [task.task for task in tasks]),
        headline=headline(means, of_tasks),
        runs=tuple(_run(arm, run) for arm, of in runs.items() for run in of),
        verdicts=tuple(_shown(one, runs) for one in (*means, *of_tasks)),
        flips=tuple(flips_of(task, arm) for task in tasks for arm in arms),
        findings=findings_on(runs, tasks, lacking),
    )


def _run(arm: str, run: RunLog) -> RunView:
    left = run.training
    training = dict(left.settings)
    return RunView(arm=arm, name=run.name, seed=run.seed, model=run.model, training=training, losses=left.losses)


def _shown(one: Judged, runs: Mapping[str, Sequence[RunLog]]) -> JudgedVerdict:
    arm = one.verdict.arm
    return JudgedVerdict(
        **dict(one.verdict),
        tasks=tuple(task.task for task in one.tasks),
        are_new_tasks=one.are_new_tasks,
        seeds=one.seeds,
        num_runs={of: len(runs[of]) for of in (arm, FULL)},
        means={of: _mean(one, of) for of in (arm, FULL)},
        sentence=judged_sentence(one, runs),
        needs=needs(one),
    )


def _mean(one: Judged, arm: str) -> float:
    """The metric of an arm, mean over its runs and over the tasks."""
    values = [
        float(sum(run.nll.sum() / run.num_tokens.sum() for run in task.runs[arm])) / len(task.runs[arm])
        for task in one.tasks
    ]
    return sum(values) / len(values)
