"""Wording of numbers and short phrases in the report; a missing number is a dash, never a stand-in."""

import itertools
from collections.abc import Sequence

from tunewise.desk.analysis.forgetting import AtEqualQuality
from tunewise.desk.analysis.low_rank import State
from tunewise.desk.fairness.finding import listed
from tunewise.desk.metrics.metrics import metric_named
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.paired import MetricSummary
from tunewise.desk.statistics.verdict import Reason, Remark, Verdict, margin_in_units
from tunewise.records import BETWEEN_PARTS, DataSummary
from tunewise.spec import TASKS, CostName, Task
from tunewise.text.numbers import MISSING, share, threads, whole_percent


def reproducible(device: str, num_threads: int) -> str:
    """What is the same when the study is rerun, and what is not guaranteed."""
    ids = "Rerunning this study with the same versions gives the same runs (ids, data order, batches, seeds)"
    if device == "cpu":
        return (
            f"{ids}. On a processor of this kind with {threads(num_threads)} per run, weights and scores are also the "
            "same bit for bit. Times and memory vary between runs."
        )
    return (
        f"{ids}. On a GPU, weights and scores are not guaranteed bit for bit, because kernels add numbers in an order "
        "that varies between runs, cards, drivers and libraries. Expect differences in the last digits, which training "
        "can enlarge; other seeds differ by more. Times and memory also vary."
    )


def example_parts(data: DataSummary) -> list[tuple[str, bool]]:
    """The first training example in order, as parts that are only read (False) or trained on (True)."""
    reads, learnt = data.example_prompt.split(BETWEEN_PARTS), data.example_supervised.split(BETWEEN_PARTS)
    if len(reads) - len(learnt) not in (0, 1):  # the text itself contains the separator
        reads, learnt = (["".join(parts)] for parts in (reads, learnt))
    pairs = itertools.zip_longest(reads, learnt)
    return [(part, bool(place)) for pair in pairs for place, part in enumerate(pair) if part]


def figure(metric: str, value: float | None) -> str:
    """A value of a metric as shown, without its unit."""
    shown = metric_named(metric)
    return MISSING if value is None else f"{value * shown.scale:.{shown.decimals}f}".replace("-", "−")


def difference(metric: str, value: float | None) -> str:
    """A signed difference of a metric, without its unit."""
    shown = metric_named(metric)
    return MISSING if value is None else f"{value * shown.scale:+.{shown.decimals}f}".replace("-", "−")


def interval(metric: str, summary: MetricSummary | None) -> str:
    """'2.4204 to 2.5234'; a dash if an end is missing."""
    if summary is None or summary.low is None or summary.high is None:
        return MISSING
    return f"{figure(metric, summary.low)} to {figure(metric, summary.high)}"


def signed_interval(metric: str, found: Estimate | Verdict | AtEqualQuality | None) -> str:
    """'−0.0112 to +0.0190'; a dash if an end is missing."""
    if found is None or found.low is None or found.high is None:
        return MISSING
    return f"{difference(metric, found.low)} to {difference(metric, found.high)}"


# what a reader sees for the values of report.json that are not English
OUTCOMES: dict[str, str] = {
    "better": "better",
    "as good": "as good",
    "worse": "worse",
    "undecided": "inconclusive",
}
REASONS: dict[Reason, str] = {
    "seeds": "too few seeds",
    "units": "too few test groups",
    "identical": "identical runs",
    "optimum not bracketed": "best rate at the edge",
    "headroom": "rate search too coarse",
    "full gains nothing measurable here": "full gains nothing",
    "skew": "loss in few groups",
    "interval": "interval too wide",
    "declarations changed": "exploratory",
    "blocked": "verdict withheld",
}
STATES: dict[State, str] = {"within": "within", "beyond": "beyond", "open": "inconclusive"}
REMARKS: dict[Remark, str] = {
    "equivalent": "equivalent: neither a loss nor a gain exceeds the margin",
    "measurably worse, within the margin": "measurably worse, but within the margin",
    "worse than full, by how much is open": "worse than full, but perhaps within the margin",
}


def side(metric: str, value: float) -> str | None:
    """'better' or 'worse' for a difference of a metric from full; None: 0 as it is shown."""
    if float(difference(metric, value).replace("−", "-")) == 0:
        return None
    return "better" if (value > 0) == metric_named(metric).higher_is_better else "worse"


def has_direction(verdict: Verdict) -> bool:
    """Whether a text may call this difference better or worse; False if a rule or the protocol withholds that."""
    if verdict.outcome != "undecided":
        return True
    if verdict.reason != "interval" or verdict.low is None or verdict.high is None:
        return False
    return verdict.remark is not None or verdict.low <= 0 <= verdict.high


def size(verdict: Verdict) -> str:
    """'0.0340 worse'; the signed difference where no direction may be named."""
    if not has_direction(verdict):
        return difference(verdict.metric, verdict.difference)
    return _sided(verdict.metric, verdict.difference)


def size_interval(verdict: Verdict) -> str | None:
    """'0.0155 to 0.0508' of the side that `size` names, else '0.0112 better to 0.0190 worse'; None: no interval."""
    if verdict.low is None or verdict.high is None:
        return None
    if not has_direction(verdict):
        return signed_interval(verdict.metric, verdict)
    return _ends(verdict.metric, verdict.low, verdict.high)


def size_on_card(verdict: Verdict) -> str:
    """What a card shows large: the difference, or its interval if the verdict is inconclusive.

    Such a difference near 0 would read like "equal".
    """
    ends = size_interval(verdict)
    if verdict.outcome != "undecided" or ends is None:
        return size(verdict)
    sides = {side(verdict.metric, end) for end in (verdict.low, verdict.high) if end is not None}
    return f"{ends} {sides.pop()}" if has_direction(verdict) and len(sides) == 1 else ends


def sized(verdict: Verdict) -> str:
    """'0.0340 worse (97.5% CI 0.0155 to 0.0508)'."""
    ends = size_interval(verdict)
    return f"{size(verdict)} ({'no interval' if ends is None else f'{verdict.confidence * 100:.4g}% CI {ends}'})"


def sized_estimate(metric: str, found: Estimate) -> str:
    """'0.0340 worse (0.0155 to 0.0508)': a difference with its interval."""
    if found.low is None or found.high is None:
        return f"{_sided(metric, found.estimate)} (no interval)"
    return f"{_sided(metric, found.estimate)} ({_ends(metric, found.low, found.high)})"


def sign_meaning(metric: str) -> str:
    """What the sign of a difference means: 'plus is worse than full'."""
    return f"plus is {'better' if metric_named(metric).higher_is_better else 'worse'} than full"


def _ends(metric: str, low: float, high: float) -> str:
    """Ends of an interval: both without a side if it is the same, else the better one first."""
    if side(metric, low) == side(metric, high):
        return " to ".join(figure(metric, end) for end in sorted((abs(low), abs(high))))
    best_first = sorted((low, high), reverse=metric_named(metric).higher_is_better)
    return " to ".join(_sided(metric, end) for end in best_first)


def _sided(metric: str, value: float) -> str:
    return " ".join(filter(None, (figure(metric, abs(value)), side(metric, value))))


def smallest_margin(verdict: Verdict) -> str | None:
    """A sentence on the margins at which the arm would be as good, and on the declared one; None: it is blocked."""
    least = verdict.smallest_margin_as_good
    if least is None:
        return None
    if least == 0:
        return f"{verdict.arm} would be as good at any margin."
    unit = metric_named(verdict.metric).difference_unit
    return (
        f"{verdict.arm} would be as good at any absolute margin above {figure(verdict.metric, least)} {unit}; the "
        f"declared one is {figure(verdict.metric, margin_in_units(verdict))}."
    )


def metric_title(metric: str, task: Task) -> str:
    """The axis or column title: 'NLL (nats per supervised token)', for a classification 'NLL (nats per example)'."""
    shown = metric_named(metric)
    unit = shown.unit.replace("supervised token", "example") if TASKS[task].has_classes else shown.unit
    return f"{shown.label} ({unit})" if unit and unit != shown.label else shown.label


def centre(name: str) -> str | None:
    """Why the intervals of a metric are not centered on the estimates; None: they are, except for tails."""
    metric = metric_named(name)
    if metric.form == "proportion":
        return (
            f"Intervals of {metric.label} are not centered on the estimate, because a few pseudo-counts of either "
            "outcome are added first. They keep a few disagreeing rows from looking like certainty (Agresti & Coull "
            "1998, Agresti & Min 2005)."
        )
    if metric.form == "nonlinear":
        return (
            f"Intervals of {metric.label} are centered on the jackknife estimate, which corrects the bias of the value "
            "shown."
        )
    return None


def looks(seeds: Sequence[int]) -> str:
    """When verdicts are given: 'verdict at 5', 'interim looks at 3 and 5, final look at 10 if inconclusive'."""
    if len(seeds) == 1:
        return f"verdict at {seeds[0]}"
    before = listed([str(number) for number in seeds[:-1]])
    interim = f"interim look{'s' if len(seeds) > 2 else ''} at {before}"
    return f"{interim}, final look at {seeds[-1]} if inconclusive"


def share_interval(found: Estimate | None) -> str:
    """'98.8% (96.1% to 101.2%)'; a dash if it is not measurable."""
    if found is None:
        return MISSING
    return f"{share(found.estimate)} ({share(found.low)} to {share(found.high)})"


def parts(verdict: Verdict) -> tuple[str, str, str]:
    """Shares of seeds, units and rest in the squared standard error, such as '62%'; dashes without an interval."""
    found = verdict.components
    if found is None:
        return (MISSING, MISSING, MISSING)
    whole = found.seed + found.unit + found.rest
    seed, unit, rest = (whole_percent(part / whole) for part in (found.seed, found.unit, found.rest))
    return (seed, unit, rest)


def within_margin(share_of_steps: float) -> str:
    """A sentence on how wide the margin is."""
    steps = whole_percent(share_of_steps)
    if steps == whole_percent(0):
        return "The margin is so wide that full fine-tuning was within it of its own best before training."
    return f"Full fine-tuning came within this margin of its own best after {steps} of its steps."


CHEAPEST: dict[CostName, str] = {
    "trainable_parameters": "trains the fewest parameters",
    "train_seconds": "trains fastest",
    "peak_memory_bytes": "needs the least memory to train",
    "saved_bytes": "takes the least disk space",
}


def recommendation(arm: str, cost: CostName) -> str:
    """A sentence on the recommended arm."""
    return f"Recommended: {arm}. Of the arms that are as good or better, it {CHEAPEST[cost]}."


MAX_CITED = 3  # run ids; report.json has all


def cited(runs: Sequence[str]) -> str:
    """The runs that a sentence is based on: 'runs 0123abcd..., ... and 4 more'."""
    more = f" and {len(runs) - MAX_CITED} more" if len(runs) > MAX_CITED else ""
    return f"{'run' if len(runs) == 1 else 'runs'} {', '.join(runs[:MAX_CITED])}{more}"


def chance(probability: float) -> str:
    """'45%', 'less than 1%'."""
    if probability < 0.01:
        return "less than 1%"
    return "more than 99%" if probability > 0.99 else f"{probability:.0%}"


def is_beyond(verdict: Verdict) -> bool:
    """True if the interval is beyond a part of the margin; "worse" tests each part at half of its level."""
    if verdict.low is None or verdict.high is None:
        return False
    least = -verdict.high if metric_named(verdict.metric).higher_is_better else verdict.low
    is_beyond_absolute = verdict.margin_absolute is not None and least > verdict.margin_absolute
    excess = verdict.share_excess
    return is_beyond_absolute or (excess is not None and excess.low is not None and excess.low > 0)


def remark(verdict: Verdict) -> str:
    """The remark on a verdict, which does not contradict its interval."""
    assert verdict.remark is not None, "a verdict with a remark"
    if verdict.remark == "worse than full, by how much is open" and is_beyond(verdict):
        return 'worse than full, but "worse" beyond the margin needs a stricter level'
    return REMARKS[verdict.remark]
