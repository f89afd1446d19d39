"""Numbers as a reader sees them; a missing number is a dash, never a stand-in."""

import itertools
from collections.abc import Sequence

from tunewise.desk.analysis.curves import ToQuality
from tunewise.desk.analysis.forgetting import AtEqualQuality
from tunewise.desk.analysis.rate_ratio import MIN_RATES, MIN_SEARCH_SEEDS
from tunewise.desk.report.views.view import ArmView, Report
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.metrics import metric_named
from tunewise.desk.statistics.paired import MetricSummary
from tunewise.desk.statistics.verdict import Verdict
from tunewise.records import BETWEEN_PARTS, DataSummary
from tunewise.records.plan import ArmPlan, StudyPlan, StudySeconds
from tunewise.spec import TASKS, CostName, Task
from tunewise.text.numbers import MISSING, duration, percent, rate, share, threads, whole_percent


def reproducible(device: str, num_threads: int) -> str:
    """What the same study gives when it is made again, and what is not promised."""
    ids = "The same study with the same versions gives the same runs (ids, data order, batches, seeds)"
    if device == "cpu":
        return (
            f"{ids} and, on a processor of this kind with {threads(num_threads)} a run, the same weights and scores to "
            "the bit. Times and memory differ from run to run."
        )
    return (
        f"{ids}. Weights and scores are not promised to the bit on a GPU: kernels add in an order that changes from "
        "run to run, and with the card, the driver and the libraries. Expect differences in the last digits, which "
        "training can enlarge; other seeds differ by more. Times and memory differ, too."
    )


def example_parts(data: DataSummary) -> list[tuple[str, bool]]:
    """The first training example in its own order: parts that are read (False) or trained on (True)."""
    reads, learnt = data.example_prompt.split(BETWEEN_PARTS), data.example_supervised.split(BETWEEN_PARTS)
    if len(reads) - len(learnt) not in (0, 1):  # the text itself holds it
        reads, learnt = (["".join(parts)] for parts in (reads, learnt))
    pairs = itertools.zip_longest(reads, learnt)
    return [(part, bool(place)) for pair in pairs for place, part in enumerate(pair) if part]


def figure(metric: str, value: float | None) -> str:
    """A value of a metric as it is shown, without its unit."""
    shown = metric_named(metric)
    return MISSING if value is None else f"{value * shown.scale:.{shown.decimals}f}".replace("-", "−")


def difference(metric: str, value: float | None) -> str:
    """A signed difference of a metric, without its unit."""
    shown = metric_named(metric)
    return MISSING if value is None else f"{value * shown.scale:+.{shown.decimals}f}".replace("-", "−")


def interval(metric: str, summary: MetricSummary | None) -> str:
    """'2.4204 to 2.5234'; a dash where an end is missing."""
    if summary is None or summary.low is None or summary.high is None:
        return MISSING
    return f"{figure(metric, summary.low)} to {figure(metric, summary.high)}"


def signed_interval(metric: str, found: Estimate | Verdict | AtEqualQuality | None) -> str:
    """'−0.0112 to +0.0190'; a dash where an end is missing."""
    if found is None or found.low is None or found.high is None:
        return MISSING
    return f"{difference(metric, found.low)} to {difference(metric, found.high)}"


def metric_title(metric: str, task: Task) -> str:
    """The axis or column title: 'NLL (nats per supervised token)', for a classification 'NLL (nats per example)'."""
    shown = metric_named(metric)
    unit = shown.unit.replace("supervised token", "example") if TASKS[task].has_classes else shown.unit
    return f"{shown.label} ({unit})" if unit and unit != shown.label else shown.label


def centre(name: str) -> str | None:
    """Why the intervals of a metric are not centered on the estimates beside them; None: they are, but for tails."""
    metric = metric_named(name)
    if metric.form == "proportion":
        return (
            f"Intervals of {metric.label} are not centered on the estimate: a few units of either outcome are added "
            "first (Agresti & Coull 1998, Agresti & Min 2005), so that few disagreeing rows do not look like certainty."
        )
    if metric.form == "nonlinear":
        return (
            f"Intervals of {metric.label} are centered on the jackknife's estimate, which corrects the bias of the "
            "value that is shown."
        )
    return None


def looks(seeds: Sequence[int]) -> str:
    """When verdicts are read: 'read at 5', 'read at 5 and, where undecided, at 10'."""
    return f"read at {seeds[0]}" + (f" and, where undecided, at {seeds[1]}" if len(seeds) > 1 else "")


def share_interval(found: Estimate | None) -> str:
    """'98.8% (96.1% to 101.2%)'; a dash where it is not measurable."""
    if found is None:
        return MISSING
    return f"{share(found.estimate)} ({share(found.low)} to {share(found.high)})"


def parts(verdict: Verdict) -> tuple[str, str, str]:
    """The shares of seeds, units and rest in the squared standard error: '62%'; dashes where there is no interval."""
    found = verdict.components
    if found is None:
        return (MISSING, MISSING, MISSING)
    whole = found.seed + found.unit + found.rest
    seed, unit, rest = (whole_percent(part / whole) for part in (found.seed, found.unit, found.rest))
    return (seed, unit, rest)


def capacity(arm: ArmView, task: Task) -> str:
    """What learns beside what there is to learn from: '0.749%, 1.4 a supervised token'."""
    if arm.trainable_percent is None or arm.parameters_per_target is None:
        return ""
    target = TASKS[task].target
    each = arm.parameters_per_target
    return f"{percent(arm.trainable_percent)}, {f'{each:,.0f}' if each >= 100 else f'{each:.3g}'} a {target}"


def search(arm: ArmView, task: Task) -> tuple[str, ...]:
    """How the learning rate was found, line by line."""
    if not arm.learning_rate_curve:
        return ()
    lines = [f"best of {len(arm.learning_rate_curve)} tried"]
    if arm.bracket is None:
        return (*lines, "at the edge of these")
    lines.append(f"between {rate(arm.bracket[0])} and {rate(arm.bracket[1])}")
    if arm.headroom is not None:
        lines.append(f"headroom {_small('accuracy' if task == 'classify' else 'nll', arm.headroom)}")
    return tuple(lines)


def rate_ratios(report: Report) -> str:
    """How many times full's best learning rate that of every other arm is, with its 95 % interval, or why not."""
    others = [arm for arm in report.tuned_arms() if arm.name != report.study.full_arm and arm.learning_rate_curve]
    told = [f"{arm.name} {_times(arm.rate_ratio)}" for arm in others if arm.rate_ratio]
    silent = [arm.name for arm in others if not arm.rate_ratio]
    said = f"Best learning rate as a multiple of {report.study.full_arm}'s: " + ("; ".join(told) or "not estimated")
    if not silent:
        return f"{said}."
    of = "" if not told else f"; not estimated: {', '.join(silent)}"
    return f"{said}{of} (it takes {MIN_SEARCH_SEEDS} search seeds and {MIN_RATES} rates near the best in both arms)."


def _times(found: Estimate) -> str:
    return f"{found.estimate:.3g} ({found.low:.3g} to {found.high:.3g})"


def _small(metric: str, value: float) -> str:
    """A value of a metric, or 'under 0.0001' where it would be shown as 0."""
    least = 10.0 ** -metric_named(metric).decimals
    return figure(metric, value) if value * metric_named(metric).scale >= least else f"under {least:g}"


def reached(found: ToQuality | None) -> str:
    """'step 61, 5 of 5 runs'."""
    if found is None or found.steps is None:
        return ""
    return f"step {found.steps:.0f}, {found.reached} of {found.runs} runs"


def at_least(text: str, plan: StudyPlan | ArmPlan) -> str:
    """'over 2.0 s' where seconds are a bound from below, because no step of some arm was really done."""
    arms = plan.arms.values() if isinstance(plan, StudyPlan) else (plan,)
    return f"over {text}" if any(arm.speed and arm.speed.source == "products" for arm in arms) else text


def study_duration(seconds: StudySeconds, plan: StudyPlan) -> str:
    """'12 min 04 s, and 20 min 10 s if every search goes to its cap; a second look adds up to 9 min 30 s'."""
    least, most = duration(seconds.least), duration(seconds.most)
    said = least if least == most else f"{least}, and {most} if every search goes to its cap"
    more = "" if seconds.second_look is None else f"; a second look adds up to {duration(seconds.second_look)}"
    return at_least(said + more, plan)


def within_margin(share_of_steps: float) -> str:
    """One sentence on what the margin means."""
    steps = whole_percent(share_of_steps)
    return f"Full fine-tuning itself came this close to its best after {steps} of its steps."


CHEAPEST: dict[CostName, str] = {
    "trainable_parameters": "trains the fewest parameters",
    "train_seconds": "trains the fastest",
    "peak_memory_bytes": "needs the least memory to train",
    "saved_bytes": "takes the least space on disk",
}


def recommendation(arm: str, cost: CostName) -> str:
    """One sentence for the arm that the report recommends."""
    return f"Recommended: {arm}, which {CHEAPEST[cost]} of the arms that are as good or better."


MAX_CITED = 3  # run ids; report.json has all


def cited(runs: Sequence[str]) -> str:
    """The records that a sentence rests on: 'runs 0123abcd..., ... and 4 more'."""
    more = f" and {len(runs) - MAX_CITED} more" if len(runs) > MAX_CITED else ""
    return f"{'run' if len(runs) == 1 else 'runs'} {', '.join(runs[:MAX_CITED])}{more}"
