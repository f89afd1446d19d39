"""What follows from a plan: does it fit, how fast could it be, which margin can the data resolve."""

import math
from typing import Literal

from tunewise.desk.gpus import Gpu
from tunewise.desk.metrics import primary_metric
from tunewise.desk.power import ASSUMED_UNIT_SD, smallest_margin
from tunewise.plans import ArmPlan, PeakMemory, StudyPlan
from tunewise.spec import StudySpec

Fit = Literal["fits", "tight", "does not fit"]
TIGHT = 0.9  # of the memory: what a driver keeps and what allocation leaves unused is not planned

# NF4 with double quantization: 4 bits and 0.127 of constants per weight (Dettmers et al. 2023, arXiv 2305.14314).
BITS_IN_NF4 = 4.127


def fit(peak: PeakMemory, memory_bytes: int) -> Fit:
    """Whether a peak goes into the memory; tight: it takes more than 90 % of it."""
    if peak.total > memory_bytes:
        return "does not fit"
    return "tight" if peak.total > TIGHT * memory_bytes else "fits"


def quantized(arm: ArmPlan) -> PeakMemory | None:
    """The step's peak with the frozen linear weights held in NF4, what it takes to unpack a weight apart. Derived.

    None: the arm has no frozen linear weights, or its step could not be followed.
    """
    if arm.step is None or not arm.frozen_linear_weights:
        return None
    packed = round(arm.frozen_linear_weights * BITS_IN_NF4 / 8)
    return arm.step.replace(weights=arm.step.weights - arm.frozen_linear_bytes + packed)


def least_epoch_seconds(arm: ArmPlan, plan: StudyPlan, card: Gpu) -> float | None:
    """Seconds that no epoch on this card can be faster than. Derived; None: not known.

    The FLOPs at the card's dense rate, or the traffic of weights and optimizer at its bandwidth: a step reads the
    weights twice, writes and reads the gradient, and reads and writes what learns with its state.
    """
    rows = plan.work.num_rows
    if arm.step is None or arm.flops_per_token is None or card.bf16_teraflops is None or rows is None:
        return None
    compute = arm.flops_per_token * plan.work.tokens_per_row * rows / (card.bf16_teraflops * 1e12)
    steps = -(-rows // plan.work.batch_size)
    learned = 4 * arm.tuned.trainable_parameters
    moved = 2 * arm.step.weights + 2 * arm.step.optimizer + 4 * learned
    return max(compute, steps * moved / (card.bandwidth_gb_per_second * 1e9))


def resolvable_margin(study: StudySpec, plan: StudyPlan) -> tuple[float, str] | None:
    """The smallest margin that the test set and the seeds can resolve, and its metric; None: not known, or none."""
    units = next((split.units for split in plan.work.splits if split.split == "test"), None)
    metric = primary_metric(plan.task, study.primary)
    if units is None or metric not in ASSUMED_UNIT_SD:
        return None
    margin = smallest_margin(units, study.looks[-1], ASSUMED_UNIT_SD[metric])
    return (margin, metric) if math.isfinite(margin) else None
