"""A verdict in words: one sentence that says what was found, how sure it is, on how much evidence, what it means."""

from tunewise.desk.statistics.metrics import Metric, metric_named
from tunewise.desk.statistics.power import MIN_SEEDS, MIN_UNITS, MOST_SEEDS, Needed
from tunewise.desk.statistics.verdict import Verdict


def sentence(verdict: Verdict) -> str:
    """The verdict in one sentence: what was found, how sure it is, on how much evidence, and what it means."""
    head = {
        "better": f"{verdict.arm} is better than {verdict.against}",
        "as good": f"{verdict.arm} is as good as {verdict.against} within the margin",
        "worse": f"{verdict.arm} is worse than {verdict.against} by more than the margin",
        "undecided": f"{verdict.arm} against {verdict.against} is undecided",
    }[verdict.outcome]
    metric = metric_named(verdict.metric)
    better = "higher" if metric.higher_is_better else "lower"
    units = _count(verdict.num_units, "test unit")
    if verdict.num_rows != verdict.num_units:
        units += f" of {_count(verdict.num_rows, 'row')}"
    text = (
        f"At the learning rates found, {head}: its {metric.label} differs by {_signed(metric, verdict.difference)} "
        f"{metric.difference_unit} ({_interval_text(verdict, metric)}, {better} is better; "
        f"{_count(verdict.num_seeds, 'seed')}, {units}), {_meaning(verdict)}."
    )
    return " ".join((text, *_lost_runs(verdict)))


def _lost_runs(verdict: Verdict) -> list[str]:
    """A sentence on runs that diverged and one on seeds that were left out, where there are any."""
    said = []
    if verdict.diverged_runs:
        counts = [f"{count} of {verdict.num_seeds} runs of {arm}" for arm, count in verdict.diverged_runs.items()]
        said.append(f"Counted as they were scored: {' and '.join(counts)} that diverged.")
    if lost := verdict.dropped_seeds:
        seeds = ("seed " if len(lost) == 1 else "seeds ") + ", ".join(map(str, lost))
        said.append(f"Left out of every arm, because the machine lost a run of it: {seeds}.")
    return said


def what_would_decide(need: Needed) -> str:
    """A sentence: what a new study needs to decide; never a permission to add runs to this one."""
    promise = "If the arms were truly equal, a new study would say so in 80 % of cases with"
    if need.kind == "seeds":
        units = _count(need.beside, "test unit")
        beyond = f"more than {MOST_SEEDS}"
        ends = " to ".join(beyond if end is None else f"{end:,}" for end in (need.fewest, need.most))
        return f"{promise} about {need.likely} seeds ({ends}) on {units}."
    no_seeds = f"Up to {MOST_SEEDS} seeds would not decide on these test units."
    if need.likely is None:
        at_best = "" if need.fewest is None else f" (at best {need.fewest:,})"
        return f"{no_seeds} Nor would any number of units with {need.beside} seeds{at_best}."
    at_worst = "at worst no number would do" if need.most is None else f"at worst {need.most:,}"
    ends = f"at best {need.fewest:,}, {at_worst}"
    return f"{no_seeds} {promise} about {need.likely:,} test units ({ends}) and {need.beside} seeds."


def _meaning(verdict: Verdict) -> str:
    margin = f"the declared margin ({verdict.margin})"
    if verdict.outcome == "better":
        return f"so it is better even at the unfavourable end of the interval, without any use of {margin}"
    if verdict.outcome == "worse":
        return f"so the loss is beyond {margin}"
    if verdict.outcome == "as good" and verdict.remark == "measurably worse, within the margin":
        return f"so it is measurably worse, but a loss beyond {margin} is ruled out"
    if verdict.outcome == "as good":
        return f"so a loss beyond {margin} is ruled out"
    if verdict.remark == "worse than full, by how much is open":
        return f"so it is worse, but whether beyond {margin} is open"
    return {
        "seeds": f"but it takes {MIN_SEEDS} seeds to judge {margin}: these runs only, {verdict.lean}",
        "units": f"but it takes {MIN_UNITS} independent test units to judge {margin}",
        "identical": f"but these are the same runs: all their differences are equal, so that {margin} is not judged",
        "optimum not bracketed": f"but the best learning rate of {' and '.join(verdict.unbracketed)} was an edge of "
        f"those tried and a better one may lie beyond, so that {margin} is not judged",
        "headroom": f"but another learning rate may gain enough to turn the word: {_headroom(verdict)}",
        "full gains nothing measurable here": f"but {verdict.against} gains nothing measurable here, so that "
        f"{margin} means nothing",
        "skew": f"but the harm sits in too few units ({', '.join(verdict.harmful_units[:3])}, ...) to rule out a "
        f"loss beyond {margin}",
        "declarations changed": f"but what was declared was changed after the first test score, so that {margin} is "
        "not judged",
        "blocked": f"but the comparison is not fair ({', '.join(verdict.blocked_by)}), and {margin} is not judged",
        "interval": f"so whether a loss stays within {margin} is open",
        None: "",
    }[verdict.reason]


def _headroom(verdict: Verdict) -> str:
    metric = metric_named(verdict.metric)
    gains = {verdict.against: verdict.headroom_of_full, verdict.arm: verdict.headroom_of_arm}
    return " and ".join(f"{arm} {_signed(metric, gain).lstrip('+')}" for arm, gain in gains.items() if gain)


def _interval_text(verdict: Verdict, metric: Metric) -> str:
    if verdict.low is None or verdict.high is None:
        return "no interval"
    level = f"{verdict.confidence * 100:.4g}% interval"
    if verdict.num_compared > 1:
        level += f" by Holm for {verdict.num_compared} arms"
    return f"{level} {_signed(metric, verdict.low)} to {_signed(metric, verdict.high)}"


def _signed(metric: Metric, value: float) -> str:
    return f"{value * metric.scale:+.{metric.decimals}f}".replace("-", "−")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
