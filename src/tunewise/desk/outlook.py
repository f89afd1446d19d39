"""What follows from a plan: does it fit, how fast could it be, which margin can the data resolve."""

import math
from typing import Literal

from tunewise.desk.drafts import SHORT_TRIAL_SHARE
from tunewise.desk.expected import num_scored, trained_arms, trials_of
from tunewise.desk.gpus import Gpu
from tunewise.desk.metrics import primary_metric
from tunewise.desk.power import ASSUMED_UNIT_SD, smallest_margin
from tunewise.plans import TIGHT, ArmPlan, PeakMemory, Speed, StudyPlan, StudySeconds
from tunewise.spec import StudySpec, forgetting_steps

Fit = Literal["fits", "tight", "does not fit"]

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
    learned = 4 * arm.tuned.trainable_parameters
    moved = 2 * arm.step.weights + 2 * arm.step.optimizer + 4 * learned
    return max(compute, plan.work.steps_in(rows) * moved / (card.bandwidth_gb_per_second * 1e9))


def epoch_seconds(arm: ArmPlan, plan: StudyPlan) -> float | None:
    """Seconds of an epoch's optimizer steps on the machine that was asked; None: not known."""
    rows = plan.work.num_rows
    if arm.speed is None or rows is None:
        return None
    return arm.speed.step_seconds * plan.work.steps_in(rows)


def study_seconds(study: StudySpec, plan: StudyPlan) -> StudySeconds | None:
    """What all runs of the study take, by the speeds of its arms; what models write is left out. None: not known."""
    speeds = {name: plan.arms[name].speed if name in plan.arms else None for name in trained_arms(study)}
    if not plan.work.splits or plan.work.num_steps is None or not speeds or None in speeds.values():
        return None
    scores = _Scoring(study, plan)
    fixed = least = most = 0.0
    for name, arm in trained_arms(study).items():
        speed = speeds[name]
        assert speed is not None, "asked above"
        training = speed.step_seconds * plan.work.num_steps
        trial = training + scores.of_trial(speed)
        fixed += study.looks[0] * (training + scores.of_confirmation(speed))
        fixed += trials_of(study, arm, "least").short * SHORT_TRIAL_SHARE * trial
        least += trials_of(study, arm, "least").full_length * trial
        most += trials_of(study, arm, "cap").full_length * trial
    slowest = max(speed.fp32_score_seconds_per_token for speed in speeds.values() if speed)
    fixed += num_scored(study) * slowest * scores.held_out
    return StudySeconds(least=fixed + least, most=fixed + most)


class _Scoring:
    """Tokens that the runs of a study score."""

    def __init__(self, study: StudySpec, plan: StudyPlan) -> None:
        tokens: dict[str, int] = {split.split: split.tokens for split in plan.work.splits}
        assert plan.work.num_steps is not None, "a plan whose runs have an end"
        self.valid, self.evaluations = tokens.get("valid", 0), study.train.num_evaluations
        self.general = study.forgetting.tokens if plan.task != "classify" else 0
        self.held_out = tokens.get("test", 0) + self.general
        points = study.forgetting.points if self.general else 0
        steps = forgetting_steps(points, plan.work.num_steps)
        self.points = len(steps)
        self.more_of_valid = len(steps - study.train.evaluation_steps(plan.work.num_steps))

    def of_trial(self, speed: Speed) -> float:
        """Seconds: valid at every evaluation, general text once."""
        return speed.score_seconds_per_token * (self.valid * self.evaluations + self.general)

    def of_confirmation(self, speed: Speed) -> float:
        """Seconds: valid at every evaluation, valid and general text at every point of the curve, test in fp32."""
        during = self.valid * (self.evaluations + self.more_of_valid) + self.general * self.points
        return speed.score_seconds_per_token * during + speed.fp32_score_seconds_per_token * self.held_out


def resolvable_margin(study: StudySpec, plan: StudyPlan) -> tuple[float, str] | None:
    """The smallest margin that the test set and the seeds can resolve, and its metric; None: not known, or none."""
    units = next((split.units for split in plan.work.splits if split.split == "test"), None)
    metric = primary_metric(plan.task, study.primary)
    if units is None or metric not in ASSUMED_UNIT_SD:
        return None
    margin = smallest_margin(units, study.looks[-1], ASSUMED_UNIT_SD[metric])
    return (margin, metric) if math.isfinite(margin) else None
