"""All metrics by name, those that a task reports, and the one that its verdict is about.

Shapes: N examples, K sums of a metric.
"""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from tunewise.desk.arrays import Floats
from tunewise.desk.metrics.class_metrics import CLASS_METRICS
from tunewise.desk.metrics.metric import Metric, pair, ratio
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.metrics.text_metrics import TEXT_METRICS, own_share
from tunewise.errors import SpecError
from tunewise.spec import TASKS, StudySpec, Task
from tunewise.spec.resolved import ResolvedStudy
from tunewise.text.suggest import lookup

__all__ = [
    "METRICS",
    "Metric",
    "check_asked",
    "compute",
    "define_metric_of_logs",
    "judged_metrics",
    "measured_metric",
    "metric_named",
    "metrics_of",
    "primary_metric",
    "register_metric",
]


def _nll_and_tokens(scores: Scores) -> Floats:
    return pair(scores.nll, scores.num_tokens, "supervised tokens")


def _bits_and_bytes(scores: Scores) -> Floats:
    return pair(scores.nll / math.log(2), scores.num_bytes, "bytes of supervised text")


def _exponential_of_ratio(sums: Floats) -> Floats:
    with np.errstate(over="ignore"):  # of a diverged run: inf
        return np.asarray(np.exp(ratio(sums)), dtype=np.float64)


_NLL = Metric(
    name="nll",
    label="NLL",
    higher_is_better=False,
    unit="nats per supervised token",
    difference_unit="nats per supervised token",
    form="ratio",
    sums=_nll_and_tokens,
    value=ratio,
)
_PERPLEXITY = Metric(
    name="perplexity",
    label="perplexity",
    higher_is_better=False,
    decimals=3,
    form="exponential",
    sums=_nll_and_tokens,
    value=_exponential_of_ratio,
)
_BITS_PER_BYTE = Metric(
    name="bits_per_byte",
    label="bits per byte",
    higher_is_better=False,
    unit="bits per byte",
    difference_unit="bits per byte",
    form="ratio",
    sums=_bits_and_bytes,
    value=ratio,
)
METRICS: Mapping[str, Metric] = MappingProxyType(
    {m.name: m for m in (_NLL, _PERPLEXITY, _BITS_PER_BYTE, *CLASS_METRICS, *TEXT_METRICS)}
)

_REGISTERED: dict[str, tuple[Metric, Task]] = {}  # what `register_metric`, and nothing else, adds for this process
_OF_LOGS: dict[str, Metric] = {}  # what `define_metric_of_logs` adds
# What the statistics of a metric are counted with; the `metrics` extra brings it.
_LIBRARIES = {"bleu": "sacrebleu", "chrf": "sacrebleu", "rouge_l": "rouge_score"}


def metric_named(name: str) -> Metric:
    """The metric of this name: built in, registered, or else the share that a study's own metric is.

    For names that a study holds, which were checked when it was read.
    """
    if name in _REGISTERED:
        return _REGISTERED[name][0]
    if name in _OF_LOGS:
        return _OF_LOGS[name]
    return METRICS[name] if name in METRICS else own_share(name)


def measured_metric(name: str, scores: Scores) -> Metric:
    """The metric of this name. Raises SpecError if it is neither known nor a statistic of `scores`."""
    counted = scores.written.statistics if scores.written else ()
    known = (*METRICS, *_REGISTERED, *_OF_LOGS, *counted)
    return metric_named(lookup({metric: metric for metric in known}, name, "metric"))


def compute(name: str, scores: Scores) -> float:
    """The metric's value over all rows of `scores`; `inf` for a perplexity beyond float64.

    Raises SpecError for an unknown metric, StudyError where the rows hold nothing that it could be computed from.
    """
    metric = measured_metric(name, scores)
    return float(metric.value(metric.sums(scores).sum(axis=0, dtype=np.float64)))


def metrics_of(task: Task, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the metrics that are reported: the task's, the most telling one first, then those `asked` for."""
    registered = [name for name, (_, of) in _REGISTERED.items() if of == task]
    return (*TASKS[task].reported, *registered, *asked)


def primary_metric(task: Task, asked: str | None = None) -> str:
    """The metric that the verdict is about: the one `asked` for, else the task's."""
    return asked or TASKS[task].reported[0]


def selection_metric(study: ResolvedStudy) -> str:
    """The metric on the validation set that chooses learning rates and checkpoints."""
    chosen = study.selecting_metric
    return TASKS[study.task].selection_metric if chosen is None else chosen.name


def judged_metrics(study: ResolvedStudy) -> tuple[str, ...]:
    """The metrics of a study's verdicts, the primary one first."""
    primary = primary_metric(study.task, study.primary)
    return (primary,) if study.secondary is None else (primary, study.secondary.metric)


def register_metric(metric: Metric, task: Task) -> None:
    """Add `metric` to the reports of studies of `task`, in this process.

    It is a function of sums like every other metric, so that its interval needs no further code. A verdict is never
    about it, because the study file, the only declaration before the runs, does not contain it. Raises SpecError if
    its name is taken.
    """
    known = (*METRICS, *_REGISTERED)
    if metric.name in known:
        raise SpecError(
            f"a metric named '{metric.name}' already exists. Known: {', '.join(known)}. Choose another name."
        )
    _REGISTERED[metric.name] = (metric, task)


def define_metric_of_logs(metric: Metric) -> None:
    """Make a metric of logs (desk/judge/) known by its name, in this process, in place of an earlier one of logs.

    Its name is not that of a metric that tunewise computes.
    """
    assert metric.name not in METRICS, "a name of its own"
    _OF_LOGS[metric.name] = metric


def check_asked(study: StudySpec) -> None:
    """Raise SpecError if the metrics of `study` do not fit its task (once it is known) or this installation."""
    lacking = {m.name: lib for m in study.metrics if (lib := _LIBRARIES.get(m.name)) and not _is_installed(lib)}
    if lacking:
        raise SpecError(
            f"metrics: {' and '.join(lacking)} need{'s' if len(lacking) == 1 else ''} the library "
            f"{' and '.join(sorted({*lacking.values()}))}, which is not installed. "
            "Install it with: pip install 'tunewise[metrics]'"
        )
    if study.task is None:
        return
    if study.metrics and study.task != "sft":
        names = ", ".join(m.name for m in study.metrics)
        raise SpecError(f"metrics ({names}) work only with task sft; this study's task is {study.task}.")
    judged = (*TASKS[study.task].judged, *(metric.name for metric in study.metrics if metric.is_own))
    second = study.secondary.metric if study.secondary else None
    for key, name in (("primary", study.primary), ("secondary.metric", second)):
        if name and name not in judged:
            known = ", ".join(judged)
            raise SpecError(f"{key}: a study of task {study.task} has no '{name}'. Allowed: {known}.")
    if second == primary_metric(study.task, study.primary):
        raise SpecError(
            f"secondary.metric: {second} is already the metric of the verdict of a study of task {study.task}. "
            "Name another one or remove it."
        )


def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None
