"""Estimates from a plan: whether it fits, how long it takes, and which margin the data can resolve."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from tunewise.desk.metrics.metrics import primary_metric
from tunewise.desk.planning.expected import Length, Runs, confirmations, expected_runs, later_looks
from tunewise.desk.planning.gpus import Gpu
from tunewise.desk.statistics.power import assumed_unit_sd, smallest_margin, strictest_level
from tunewise.records.plan import TIGHT, ArmPlan, PeakMemory, Speed, StudyPlan, StudySeconds
from tunewise.spec import TASKS
from tunewise.spec.resolved import ResolvedStudy

Fit = Literal["fits", "tight", "does not fit"]

# NF4 with double quantization: 4 bits and 0.127 of constants per weight (Dettmers et al. 2023, arXiv 2305.14314).
BITS_IN_NF4 = 4.127


def fit(arm: ArmPlan, memory_bytes: int) -> Fit:
    """Whether loading, a step and scoring fit in the memory; tight: one of them takes more than 90% of it."""
    if run_bytes(arm) > memory_bytes:
        return "does not fit"
    return "tight" if run_bytes(arm) > TIGHT * memory_bytes else "fits"


def run_bytes(arm: ArmPlan) -> int:
    """Memory that a run of this arm needs at its peak, as planned or measured; 0: not known."""
    planned = [peak.total for peak in (arm.step, arm.evaluation) if peak]
    measured = arm.speed.peak_above_start_bytes if arm.speed else None
    return max([*planned, arm.loading or 0, measured or 0])


def quantized(arm: ArmPlan) -> PeakMemory | None:
    """Derived peak of a step with the frozen linear weights stored in NF4, without the memory to unpack them.

    None: the arm has no frozen linear weights, or its step could not be followed.
    """
    if arm.step is None or not arm.frozen_linear_weights:
        return None
    packed = round(arm.frozen_linear_weights * BITS_IN_NF4 / 8)
    return arm.step.replace(weights=arm.step.weights - arm.frozen_linear_bytes + packed)


def least_epoch_seconds(arm: ArmPlan, plan: StudyPlan, card: Gpu) -> float | None:
    """Seconds that no epoch on this card can be faster than. Derived; None: not known.

    The larger of two bounds: the FLOPs at the card's dense rate, and the traffic of weights and optimizer at its
    bandwidth. A step reads the weights twice, writes and reads the gradient, and reads and writes the trainable
    parameters with their optimizer state.
    """
    rows = plan.work.num_rows
    if arm.step is None or arm.flops_per_token is None or card.bf16_teraflops is None or rows is None:
        return None
    compute = arm.flops_per_token * plan.work.tokens_per_row * rows / (card.bf16_teraflops * 1e12)
    learned = 4 * arm.tuned.trainable_parameters
    moved = 2 * arm.step.weights + 2 * arm.step.optimizer + 4 * learned
    return max(compute, plan.work.steps_in(rows) * moved / (card.bandwidth_gb_per_second * 1e9))


def epoch_seconds(arm: ArmPlan, plan: StudyPlan) -> float | None:
    """Seconds of an epoch's optimizer steps on the machine that was asked; None: not known."""
    rows = plan.work.num_rows
    if arm.speed is None or rows is None:
        return None
    return arm.speed.step_seconds * plan.work.steps_in(rows)


def length(study: ResolvedStudy, plan: StudyPlan) -> Length | None:
    """What the number of runs and scorings depends on; None: not known without data."""
    if not plan.work.splits or plan.work.num_steps is None:
        return None
    return Length(plan.work.num_steps, has_general=TASKS[plan.task].has_general_text and study.forgetting.tokens > 0)


def study_seconds(study: ResolvedStudy, plan: StudyPlan) -> StudySeconds | None:
    """What all runs of a resolved study take, by the speeds of its arms. None: not known.

    Texts for the test set and the singular values of `extract` are left out. An arm whose rank is not yet known is
    assumed to be as slow as at its highest one.
    """
    speeds = {name: plan.arms[name].speed if name in plan.arms else None for name in study.trained_arms}
    known = {name: _as_scored(study, speed) for name, speed in speeds.items() if speed}
    known_length = length(study, plan)
    if known_length is None or not speeds or len(known) < len(speeds):
        return None
    tokens = {split.split: split.tokens for split in plan.work.splits} | {"general": study.forgetting.tokens}
    if study.select_by and any(speed.write_seconds_per_row is None for speed in known.values()):
        return None
    slowest = max(known.values(), key=lambda speed: speed.fp32_score_seconds_per_token)

    num_valid = next((split.rows for split in plan.work.splits if split.split == "valid"), 0)

    def writing(of: Runs) -> float:
        return of.num_runs * of.written * num_valid * (known.get(of.arm, slowest).write_seconds_per_row or 0.0)

    def seconds(runs: Iterable[Runs]) -> float:
        return sum(_seconds(of, known.get(of.arm, slowest), tokens) + writing(of) for of in runs)

    more = seconds(later_looks(study, known_length))
    return StudySeconds(
        least=seconds(expected_runs(study, known_length, "least")),
        most=seconds(expected_runs(study, known_length, "cap")),
        second_look=more if study.looks[1:] else None,
    )


def _as_scored(study: ResolvedStudy, speed: Speed) -> Speed:
    """The speed with scoring in the precision of training where the study asks for it."""
    if study.machine.scoring == "exact":
        return speed
    return speed.replace(fp32_score_seconds_per_token=speed.score_seconds_per_token)


def _seconds(runs: Runs, speed: Speed, tokens: Mapping[str, int]) -> float:
    scored, in_fp32 = runs.scored_tokens(tokens)
    scoring = scored * speed.score_seconds_per_token + in_fp32 * speed.fp32_score_seconds_per_token
    return runs.num_runs * (_training_seconds(runs, speed) + scoring)


def training_seconds(study: ResolvedStudy, plan: StudyPlan, arm: str) -> float | None:
    """Of the optimizer steps of one confirmed run of an arm; None: not known."""
    known_length, speed = length(study, plan), plan.arms[arm].speed
    if known_length is None or speed is None:
        return None
    return _training_seconds(confirmations(study, arm, known_length, num_runs=1), speed)


def _training_seconds(runs: Runs, speed: Speed) -> float:
    return runs.num_steps * speed.step_seconds + runs.pauses * (speed.resume_seconds or 0.0)


def resolvable_margin(study: ResolvedStudy, plan: StudyPlan) -> tuple[float, str] | None:
    """The smallest margin that the test set and the seeds can resolve, and its metric; None: not known, or none."""
    units = next((split.units for split in plan.work.splits if split.split == "test"), None)
    metric = primary_metric(plan.task, study.primary)
    spread = assumed_unit_sd(metric, TASKS[plan.task].has_classes)
    if units is None or spread is None:
        return None
    margin = smallest_margin(units, study.looks[-1], spread, level=strictest_level(study.num_comparisons))
    return (margin, metric) if math.isfinite(margin) else None
