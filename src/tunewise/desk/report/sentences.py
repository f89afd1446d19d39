"""Sentences for a verdict: the answer, its size and interval, what it means for the margin, then the evidence."""

from collections.abc import Iterator, Sequence

from tunewise.desk.fairness.finding import count, listed
from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.report import wording
from tunewise.desk.statistics.power import MIN_SEEDS, MIN_UNITS, MOST_SEEDS, Needed
from tunewise.desk.statistics.verdict import Lean, Verdict
from tunewise.records.plan import Prospect

HEADS = {"better": "Better", "as good": "As good within the margin", "worse": "Worse", "undecided": "Inconclusive"}
LEANS: dict[Lean, str] = {
    "leans better": "lean toward better",
    "leans worse": "lean toward worse",
    "no lean": "lean neither way",
}
SHOWN_UNITS = 3  # that carry the quality loss; report.json has ten


def sentence(verdict: Verdict, evidence: str | None = None) -> str:
    """The verdict in sentences: answer and size, meaning for the margin, evidence, runs that were lost.

    `evidence`: what it rests on, if that is not a study.
    """
    head = "Verdict withheld" if verdict.blocked_by else HEADS[verdict.outcome]
    meaning = _meaning(verdict)
    joint = ", " if meaning.startswith("and ") else ". "
    first = f"{head}: {_finding(verdict)}{joint}{meaning}."
    rest = (*_ended_early(verdict), *_lost_runs(verdict), *_reliability(verdict))
    return " ".join((first, evidence or _evidence(verdict), *rest))


def second_sentence(verdict: Verdict) -> str:
    """The verdict on the second metric in one short sentence."""
    metric = metric_named(verdict.metric)
    word = wording.OUTCOMES[verdict.outcome]
    if verdict.reason:
        word = "verdict withheld" if verdict.blocked_by else f"{word} ({wording.REASONS[verdict.reason]})"
    return (
        f"Second metric, {metric.label}: {word}. Difference from {_full(verdict.against)}: {wording.sized(verdict)} "
        f"in {metric.difference_unit}; margin {verdict.margin}."
    )


def _ended_early(verdict: Verdict) -> Iterator[str]:
    """Why an inconclusive arm did not go on to the last look."""
    if verdict.chance_at_last is not None:
        yield (
            f"It ended at {verdict.num_seeds} seeds: the last look would have decided with a probability of "
            f"{wording.chance(verdict.chance_at_last)}."
        )


def _finding(verdict: Verdict) -> str:
    """'lora is worse than full fine-tuning by 0.0340 nats per supervised token (NLL; 95% CI 0.0155 to 0.0508)'."""
    metric, full = metric_named(verdict.metric), _full(verdict.against)
    ends = wording.size_interval(verdict)
    interval = "no interval" if ends is None else f"{verdict.confidence * 100:.4g}% CI {ends}"
    evidence = f"({metric.label}; {interval})"
    if not wording.has_direction(verdict):
        by = wording.difference(verdict.metric, verdict.difference)
        return f"{verdict.arm} differs from {full} by {by} {metric.difference_unit} {evidence}"
    size = f"{wording.figure(verdict.metric, abs(verdict.difference))} {metric.difference_unit}"
    side = wording.side(verdict.metric, verdict.difference)
    is_shown = verdict.outcome in ("better", "worse") or bool(verdict.remark and "worse" in verdict.remark)
    if side is None:
        return f"{verdict.arm} scored the same as {full} {evidence}"
    if is_shown:
        return f"{verdict.arm} is {side} than {full} by {size} {evidence}"
    return f"{verdict.arm} scored {side} than {full} by {size} {evidence}"


def _full(against: str) -> str:
    return "full fine-tuning" if against == "full" else against


def _meaning(verdict: Verdict) -> str:
    margin = _your_margin(verdict)
    if verdict.outcome == "better":
        return f"It is better even at the unfavorable end of the interval, so {margin} was not needed"
    if verdict.outcome == "worse":
        return f"The loss exceeds {margin}"
    if verdict.outcome == "as good" and verdict.remark == "measurably worse, within the margin":
        return f"The loss is measurable, but a loss beyond {margin} is ruled out"
    if verdict.outcome == "as good":
        return f"A loss beyond {margin} is ruled out"
    if verdict.remark == "worse than full, by how much is open":
        if wording.is_beyond(verdict):
            return f'The interval is beyond {margin}, but "worse" needs a stricter level for a margin of two parts'
        is_short = margin.endswith(verdict.margin)  # without a parenthesis of its own
        return f"{'and w' if is_short else 'W'}e cannot tell whether that exceeds {margin}"
    lean = LEANS[verdict.lean] if verdict.lean else LEANS["no lean"]
    unbracketed = listed(verdict.unbracketed) if verdict.unbracketed else verdict.arm
    return {
        "seeds": f"Judging {margin} takes at least {MIN_SEEDS} seeds. These runs alone {lean}",
        "units": f"Judging {margin} takes at least {MIN_UNITS} independent test rows or groups",
        "identical": f"All differences are equal, as if these were the same runs, so {margin} is not judged",
        "optimum not bracketed": f"The best learning rate of {unbracketed} was the lowest or highest one tried, so a "
        f"better one may exist outside that range and {margin} is not judged",
        "headroom": f"A finer learning-rate search could gain enough to reverse the verdict: {_headroom(verdict)}",
        "full gains nothing measurable here": f"{_full(verdict.against).capitalize()} gains nothing measurable here, "
        f"so {margin} cannot be applied",
        "skew": _skew(verdict, margin),
        "declarations changed": f"The declarations were changed after the first test score, so {margin} is not judged",
        "blocked": f"The comparison is not fair ({', '.join(verdict.blocked_by)}), so {margin} is not judged",
        "interval": f"A loss beyond {margin} cannot be ruled out",
        None: "",
    }[verdict.reason]


def _skew(verdict: Verdict, margin: str) -> str:
    names = ", ".join((verdict.harmful_units or verdict.beneficial_units)[:SHOWN_UNITS])
    if verdict.beneficial_units:
        return f"A few test groups ({names}, ...) gain too much to show a loss beyond {margin} in all"
    return f"The quality loss comes from too few test groups ({names}, ...) to rule out a loss beyond {margin}"


def _your_margin(verdict: Verdict) -> str:
    """'your margin of 0.02 nats per supervised token'; a margin of two parts is in parentheses."""
    return f"your margin ({verdict.margin})" if "," in verdict.margin else f"your margin of {verdict.margin}"


def _headroom(verdict: Verdict) -> str:
    gains = {verdict.against: verdict.headroom_of_full, verdict.arm: verdict.headroom_of_arm}
    return " and ".join(f"{arm} by {wording.figure(verdict.metric, gain)}" for arm, gain in gains.items() if gain)


def _evidence(verdict: Verdict) -> str:
    """'Based on 3 seeds and 300 test rows in 53 groups, ...; Holm-adjusted for 2 comparisons.'"""
    rows = count(verdict.num_rows, "test row")
    if verdict.num_rows != verdict.num_units:
        rows += f" in {count(verdict.num_units, 'group')}"
    holm = f"; Holm-adjusted for {verdict.num_compared} comparisons" if verdict.num_compared > 1 else ""
    return f"Based on {count(verdict.num_seeds, 'seed')} and {rows}, at the learning rates used{holm}."


def _lost_runs(verdict: Verdict) -> list[str]:
    """A sentence on runs that diverged and one on seeds that were left out, if there are any."""
    found = []
    if verdict.diverged_runs:
        counts = [f"{number} of {verdict.num_seeds} runs of {arm}" for arm, number in verdict.diverged_runs.items()]
        found.append(f"{listed(counts)} diverged; they count as scored.")
    if lost := verdict.dropped_seeds:
        seeds = f"Seed {lost[0]} is" if len(lost) == 1 else f"Seeds {listed([str(seed) for seed in lost])} are"
        found.append(f"{seeds} left out of every arm because a run was lost.")
    return found


def _reliability(verdict: Verdict) -> list[str]:
    """What a verdict of good quality leaves open: how often a run of the arm fails."""
    if verdict.outcome not in ("better", "as good") or verdict.failing_share_bound is None:
        return []
    return [
        f"How often {verdict.arm} fails is another question: {verdict.num_failed} of {verdict.num_seeds} runs failed, "
        f"so up to {verdict.failing_share_bound:.0%} of new runs may fail (95% bound)."
    ]


# --- what would settle it


def has_needs(verdict: Verdict) -> bool:
    """Whether to show what a new study needs to find the arms equal; not for an arm just shown to be worse."""
    is_worse = verdict.remark == "worse than full, by how much is open"
    return verdict.would_decide is not None and not is_worse


def what_would_decide(need: Needed) -> str:
    """What a new study needs to settle the question; never a permission to add runs to this one."""
    return f"To settle this: {_condition(need)}"


def what_would_decide_all(needs: Sequence[tuple[str, Needed]]) -> str:
    """The same for several arms, each named once."""
    if len(needs) == 1:
        arm, need = needs[0]
        return f"To settle {arm}: {_condition(need)}"
    parts = "; ".join(f"{arm} with {_size(need) or 'no number of seeds or test rows'}" for arm, need in needs)
    return f"If there is truly no difference, a new study would show it with 80% probability: {parts}."


def _condition(need: Needed) -> str:
    limit = f"Even {MOST_SEEDS} seeds on this test set would not be enough"
    size = _size(need)
    if size is None:
        at_best = "" if need.fewest is None else f" (at best {need.fewest:,})"
        return f"{limit[0].lower()}{limit[1:]}, nor would any number of test rows with {need.beside} seeds{at_best}."
    promise = f"if there is truly no difference, a new study with {size} would show it with 80% probability."
    return promise if need.kind == "seeds" else f"{promise} {limit}."


def _size(need: Needed) -> str | None:
    """'about 5 seeds (range 4 to over 50) on this test set'; None: no number of test rows is enough."""
    if need.likely is None:
        return None
    if need.kind == "seeds":
        ends = " to ".join(f"over {MOST_SEEDS}" if end is None else f"{end:,}" for end in (need.fewest, need.most))
        return f"about {need.likely} seeds (range {ends}) on this test set"
    most = "at worst no number is enough" if need.most is None else f"{need.most:,} at worst"
    ends = f"{need.fewest:,} at best, {most}"
    return f"{need.beside} seeds and about {need.likely:,} independent test rows or groups ({ends})"


def prospect(found: Prospect) -> str:
    """The chance of an answer of one arm, and what would raise it."""
    metric = metric_named(found.metric)
    pairs = zip(found.looks, found.chances, strict=True)
    chances = listed([f"{wording.chance(chance)} at {seeds} seeds" for seeds, chance in pairs])
    shown = f"{found.margin * metric.scale:.3g} {metric.difference_unit}"
    first = (
        f"{found.arm}: if it truly equals full fine-tuning, the chance to find it as good within {shown} is, at best, "
        f"{chances}."
    )
    if found.smallest_margin is None:
        return f"{first} These test rows resolve no margin."
    smallest = f"{found.smallest_margin * metric.scale:.3g} {metric.difference_unit}"
    return (
        f"{first} The smallest margin with 80% is {smallest}. With four times the test rows, which cost scoring only, "
        f"the last chance is {wording.chance(found.with_more_rows)}."
    )
