"""What a reader must know of logs before believing a verdict on them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from tunewise.desk.fairness import elsewhere
from tunewise.desk.fairness.finding import Finding, count, listed
from tunewise.desk.judge.pairing import PairedTask
from tunewise.desk.judge.verdicts import FULL, matched
from tunewise.errors import DataError
from tunewise.inputs.logs.log import RunLog
from tunewise.text import suggest

Arms = Mapping[str, Sequence[RunLog]]
SHOWN = 5  # ids and names in a sentence


def require_not_swapped(arms: Arms) -> None:
    """Raise DataError if all runs of full were made with an adapter, and no run of an arm was."""
    full = [run.is_adapter for run in arms[FULL]]
    for arm, runs in arms.items():
        if arm != FULL and all(full) and all(run.is_adapter is False for run in runs):
            raise DataError(
                f"the logs of full were made with an adapter ({arms[FULL][0].model}), and those of {arm} without one "
                f"({runs[0].model}). Are the arms swapped? Give the fully tuned model as --full."
            )


def findings_on(arms: Arms, tasks: Sequence[PairedTask], lacking: Mapping[str, Sequence[str]]) -> tuple[Finding, ...]:
    """All findings, warnings first."""
    found = [*_unpaired(tasks), *_lacking(lacking), *_settings(arms), *_same_model(arms), *_elsewhere(arms)]
    found += [*_copies(arms, tasks), *_other_training(arms)]
    found += [*_few_runs(arms), *_prompts(tasks), *_metrics(tasks)]
    return tuple(sorted(found, key=lambda finding: finding.severity != "warns"))


def _unpaired(tasks: Sequence[PairedTask]) -> Iterator[Finding]:
    for task in tasks:
        for arm, ids in task.unpaired.items():
            paired = len(task.runs[arm][0].examples)
            yield Finding(
                id="unpaired-items",
                severity="warns",
                sentence=f"{task.task}: {count(len(ids), 'item')} of {arm} are not in every run and were left out: "
                f"{suggest.listed(ids, SHOWN)}. Were runs stopped early, or limited to some items?",
                evidence=f"{paired:,} items paired",
                arms=(arm,),
            )


def _lacking(lacking: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    for task, runs in lacking.items():
        yield Finding(
            id="tasks-left-out",
            severity="warns",
            sentence=f"{task} was left out: {count(len(runs), 'run')} have no log of this task.",
            evidence=suggest.listed(runs, SHOWN),
        )


def _settings(arms: Arms) -> Iterator[Finding]:
    runs = [(arm, run) for arm, of in arms.items() for run in of]
    for key in dict.fromkeys(key for _, run in runs for key in run.settings):
        by_value: dict[str, list[str]] = {}
        for arm, run in runs:
            by_value.setdefault(run.settings.get(key, "not known"), []).append(arm)
        if len(by_value) > 1:
            shown = "; ".join(f"{value}: {listed(list(dict.fromkeys(of)))}" for value, of in by_value.items())
            yield Finding(
                id="other-settings",
                severity="warns",
                sentence=f"The runs were evaluated with different {key.replace('_', ' ')}, which could explain a "
                "difference. Evaluate all in the same way.",
                evidence=shown,
            )


def _same_model(arms: Arms) -> Iterator[Finding]:
    of_full = {run.model for run in arms[FULL] if run.model}
    for arm, runs in arms.items():
        if arm != FULL and (same := of_full & {run.model for run in runs}):
            yield Finding(
                id="same-model",
                severity="warns",
                sentence=f"The logs of {arm} and of full name the same model. Are they logs of one model?",
                evidence=suggest.listed(sorted(map(str, same)), SHOWN),
                arms=(arm,),
            )


def _copies(arms: Arms, tasks: Sequence[PairedTask]) -> Iterator[Finding]:
    """Runs of one arm with the same score in every item of every task: copies are not seeds."""
    for arm, runs in arms.items():
        of_tasks = [task.runs[arm] for task in tasks]
        same = {
            place
            for pair in combinations(range(len(runs)), 2)
            if all(np.array_equal(of_runs[pair[0]].nll, of_runs[pair[1]].nll) for of_runs in of_tasks)
            for place in pair
        }
        copies = [runs[place].name for place in sorted(same)]
        if copies:
            yield Finding(
                id="same-scores",
                severity="warns",
                sentence=f"{count(len(copies), 'run')} of {arm} have the same score in every item as another. Are "
                "they copies? Copies are not seeds, and an interval over them is too short.",
                evidence=suggest.listed(copies, SHOWN),
                arms=(arm,),
            )


def _elsewhere(arms: Arms) -> Iterator[Finding]:
    known = {arm: elsewhere.in_words(_settings_left(runs)) for arm, runs in arms.items()}
    yield Finding(
        id="trained-elsewhere",
        severity="warns",
        sentence="Nobody knows which learning rates, seeds and checkpoints were tried for each arm. An arm that was "
        "searched longer, or selected on these items, looks better than it is.",
        evidence="; ".join(f"{arm}: {of or 'nothing known'}" for arm, of in known.items()),
    )


def _settings_left(runs: Sequence[RunLog]) -> list[elsewhere.Settings]:
    return [run.training.settings for run in runs]


def _other_training(arms: Arms) -> Iterator[Finding]:
    """Amounts of training that differ from those of full, and a learning rate that is the same."""
    full = _settings_left(arms[FULL])
    for arm, runs in arms.items():
        own = _settings_left(runs)
        if differing := elsewhere.unlike_amounts(own, full):
            yield elsewhere.amount_finding(arm, FULL, differing)
        rates = elsewhere.values(own, elsewhere.RATE)
        if arm != FULL and rates and rates == elsewhere.values(full, elsewhere.RATE):
            yield elsewhere.rate_finding(arm, FULL, elsewhere.either(rates))


def _few_runs(arms: Arms) -> Iterator[Finding]:
    few = [arm for arm in arms if arm != FULL and matched(arms[arm], arms[FULL]).seeds == "fixed"]
    if few:
        yield Finding(
            id="these-checkpoints",
            severity="note",
            sentence=f"With fewer than 3 runs of an arm, the verdict on {listed(few)} is about these checkpoints. To "
            "judge the methods, train at least 3 seeds of each arm.",
            evidence="; ".join(f"{arm}: {count(len(runs), 'run')}" for arm, runs in arms.items()),
        )


def _prompts(tasks: Sequence[PairedTask]) -> Iterator[Finding]:
    without = [task.task for task in tasks if any(log.prompts is None for of in task.logs.values() for log in of)]
    if without:
        yield Finding(
            id="prompts-not-known",
            severity="note",
            sentence="Items are paired by id alone, because the logs hold no prompts. A column `prompt` would show "
            "that all runs were asked the same.",
            evidence=suggest.listed(without, SHOWN),
        )


def _metrics(tasks: Sequence[PairedTask]) -> Iterator[Finding]:
    metrics = {task.task: task.metric for task in tasks}
    if len(set(metrics.values())) > 1:
        yield Finding(
            id="no-mean",
            severity="note",
            sentence="The tasks have different metrics, so there is no verdict on their mean. Name a metric that all "
            "have with --metric.",
            evidence=suggest.listed([f"{task}: {metric}" for task, metric in metrics.items()], SHOWN),
        )
