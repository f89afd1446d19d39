"""Sentences of a judgment: what the verdict is about, what it rests on, what would settle it."""

from collections.abc import Mapping, Sequence

from tunewise.desk.fairness.finding import count, listed
from tunewise.desk.judge.verdicts import FULL, Judged
from tunewise.desk.report.sentences import sentence, what_would_decide
from tunewise.desk.statistics.verdict import Outcome
from tunewise.inputs.logs.log import RunLog

MOST_PARTS = 6  # verdicts in the headline
CLAUSES: dict[Outcome, str] = {
    "better": "is better than full fine-tuning",
    "as good": "is as good as full fine-tuning within the margin",
    "worse": "is worse than full fine-tuning",
    "undecided": "vs. full fine-tuning: inconclusive",
}


def question(arms: Sequence[str], tasks: Sequence[str]) -> str:
    """'Is lora as good as full on arc_easy?'"""
    verb = "Is" if len(arms) == 1 else "Are"
    shown = f"{', '.join(tasks[:5])}{', ...' if len(tasks) > 5 else ''}"
    on = shown if len(tasks) == 1 else f"{len(tasks)} tasks ({shown})"
    return f"{verb} {listed(arms)} as good as full fine-tuning on {on}?"


def headline(means: Sequence[Judged], of_tasks: Sequence[Judged]) -> str:
    """The answer in one line: on the mean if there is one, else task by task."""
    asked = means or of_tasks
    is_one_task = bool(means) or len({one.tasks[0].task for one in asked}) == 1
    parts = [
        f"{one.verdict.arm} {'' if is_one_task else f'on {one.tasks[0].task} '}{CLAUSES[one.verdict.outcome]}"
        for one in asked
    ]
    scope = "These checkpoints: " if all(one.seeds == "fixed" for one in asked) else ""
    if means:
        number = len(means[0].tasks)
        scope += f"new tasks like these {number}: " if means[0].are_new_tasks else f"mean of {number} tasks: "
    more = len(parts) - MOST_PARTS
    stated = f"{scope}{'; '.join(parts[:MOST_PARTS])}{f'; and {more} more' if more > 0 else ''}."
    return stated[0].upper() + stated[1:] if scope else stated


def judged_sentence(one: Judged, runs: Mapping[str, Sequence[RunLog]]) -> str:
    """The verdict in sentences."""
    on = f"Task {one.tasks[0].task}" if len(one.tasks) == 1 else f"Mean of {len(one.tasks)} tasks"
    return f"{on}. {sentence(one.verdict, evidence(one, runs))}"


def evidence(one: Judged, runs: Mapping[str, Sequence[RunLog]]) -> str:
    """What the verdict rests on, and of what it speaks."""
    verdict = one.verdict
    items = count(verdict.num_rows, "item")
    if one.are_new_tasks:
        items += f" of {len(one.tasks)} tasks, which are the units"
    elif verdict.num_rows != verdict.num_units:
        items += f" in {count(verdict.num_units, 'group')}"
    own, full = len(runs[verdict.arm]), len(runs[FULL])
    both = f"{count(own, 'run')} of {verdict.arm} and {full} of {FULL}"
    scope = {
        "fixed": "It is about these very checkpoints on new items of this kind: other seeds may differ.",
        "apart": "Their seeds are not paired.",
        "paired": "Their seeds are paired.",
    }[one.seeds]
    tasks = " It is about these tasks only; for new ones it takes at least 10." if _is_of_few(one) else ""
    holm = f" Holm-adjusted for {verdict.num_compared} comparisons." if verdict.num_compared > 1 else ""
    return f"Based on {both} and {items}. {scope}{tasks}{holm}"


def _is_of_few(one: Judged) -> bool:
    return len(one.tasks) > 1 and not one.are_new_tasks


def needs(one: Judged) -> str | None:
    """What would settle an inconclusive verdict; None: it is not, or more would not help."""
    verdict = one.verdict
    if verdict.remark == "worse than full, by how much is open":
        return None
    if one.seeds == "fixed" and verdict.reason == "interval":
        if one.items_needed is None:
            return "No number of items would settle it for these checkpoints."
        unit = "tasks" if one.are_new_tasks else "items" if verdict.num_rows == verdict.num_units else "groups of items"
        return (
            f"To settle this for these checkpoints: if there is truly no difference, about {one.items_needed:,} {unit} "
            f"(now {verdict.num_units:,}) would show it with 80% probability."
        )
    return None if verdict.would_decide is None else what_would_decide(verdict.would_decide)
