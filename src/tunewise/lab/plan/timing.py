"""Speed of an arm's steps on this machine: a few are executed, with random weights instead of the model's.

If they would not fit in the free memory, or take too long, the plan's FLOPs are divided by the rate of bare matrix
products instead. This gives a lower bound of the time.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batch, Batching, Example
from tunewise.lab.evaluate.score import score
from tunewise.lab.machine import pick_device
from tunewise.lab.models.load import LINEAR, inner_model
from tunewise.lab.plan.basis import Basis, basis_of
from tunewise.lab.plan.kernels import try_kernels
from tunewise.lab.plan.meta_model import give_storage, with_drawn_values
from tunewise.lab.plan.setting import Kernels, PlanContext, PlannedModel, begin_training, build
from tunewise.lab.plan.workload import Workload
from tunewise.lab.plan.writing import write_seconds_per_row
from tunewise.lab.train.loop import Loop, compute_gradient, update
from tunewise.lab.train.meters import MemoryMeter
from tunewise.records.plan import ArmPlan, PlanRequest, Speed
from tunewise.spec import Device, Method, Precision, StudySpec

LIMIT_SECONDS = 5.0  # approximate limit for the steps of an arm
MOST_FREE = 0.8  # of the free memory
NUM_RESUMED, SLOWER_AFTER = 2, 2  # scorings, and slower steps after each
NUM_SCORED = 4  # micro-batches
PRODUCT_ROWS = 256  # rows of the matrix products whose rate is measured
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Rates(NamedTuple):
    """FLOP/s of bare matrix products of this model's shapes."""

    training: float  # in the precision of training
    fp32: float


class StepSeconds(NamedTuple):
    """Time of one optimizer step: the gradient grows with tokens, the update with trained parameters."""

    gradient: float
    update: float
    num_tokens: int

    @property
    def total(self) -> float:
        """Seconds of both parts."""
        return self.gradient + self.update


class Usual(NamedTuple):
    """A mean step, by its tokens."""

    gradient_per_token: float
    update: float

    def of(self, num_tokens: float) -> float:
        """Seconds of a step of this many tokens."""
        return self.gradient_per_token * num_tokens + self.update


def probe_arm(study: StudySpec, folder: Path, name: str, plan: ArmPlan) -> Speed:
    """Speed of one planned arm. `folder` is the place in which the plan was made.

    Run it in a process of its own, whose memory it measures.
    """
    assert plan.step is not None, "only arms whose step can be traced are timed"
    assert plan.flops_per_token is not None, "set together with the step"
    if study.machine.threads:
        torch.set_num_threads(study.machine.threads)
    meter = MemoryMeter(study.machine.device or pick_device())  # first: a run's meter too begins before reading
    basis = basis_of(study, folder, PlanRequest())
    arm, setting = basis.arms()[name], basis.setting
    kernels = try_kernels(setting, arm) or Kernels(None, 0)
    load, rates = basis.workload(kernels), product_rates(setting, arm)
    seconds_of_one = plan.flops_per_token * len(load.longest.input_ids) / rates.training
    # a run also scores in fp32, and loads all weights as fp32
    needed = max(plan.step.total, plan.evaluation.total if plan.evaluation else 0)
    if needed > MOST_FREE * _free(setting.device) or seconds_of_one > LIMIT_SECONDS:
        return by_products(basis, plan, rates, study)
    work, scored = _work(load, seconds_of_one), _scored(basis, load, plan, rates.fp32)
    subject = _with_weights(setting, arm, kernels)

    def score_once(precision: Precision) -> float:
        return _score_seconds(subject.model, scored, load.batching, Compute(setting.device, precision))

    with meter.phase("train"):
        loop = begin_training(subject, setting, setting.device)
        timed = _time_steps(subject.model, work, loop)
        usual = _usual(timed)
        seconds, after = _interrupted(subject.model, work, loop, lambda: _apart(meter, setting.precision, score_once))
    writes = write_seconds_per_row(
        subject.model, scored, study, setting.task, Compute(setting.device, setting.precision)
    )
    peak = meter.memory("train") if work.is_fullest else None
    del subject, loop  # a run also scores another model in fp32
    subject = _with_weights(setting, arm, kernels)
    fp32_seconds = [_apart(meter, "fp32", score_once) for _ in range(2)]
    return Speed(
        source="steps",
        step_seconds=usual.of(tokens_per_step(basis)),
        score_seconds_per_token=min(seconds),
        fp32_score_seconds_per_token=min(fp32_seconds),
        peak_above_start_bytes=peak.above_start_bytes if peak else None,
        resume_seconds=max(0.0, min(sum(step.total - usual.of(step.num_tokens) for step in steps) for steps in after)),
        write_seconds_per_row=writes,
    )


def _apart(meter: MemoryMeter, precision: Precision, score_once: Callable[[Precision], float]) -> float:
    """Seconds per token, scored as in a run: in a phase of its own, around which freed memory is returned."""
    with meter.phase("evaluate"):
        return score_once(precision)


def _with_weights(setting: PlanContext, arm: Method, kernels: Kernels) -> PlannedModel:
    def made(tensor: torch.Tensor) -> torch.Tensor:
        return with_drawn_values(tensor).to(setting.device)

    if arm.quantized is not None:
        return build(setting, arm, made).take_up(kernels)
    subject = build(setting, arm).take_up(kernels)
    give_storage(subject.model, made)
    return subject


def _score_seconds(model: torch.nn.Module, examples: Sequence[Example], batching: Batching, compute: Compute) -> float:
    """Seconds per token, padding excluded."""
    begin = time.perf_counter()
    score(model, examples, batching, compute)
    return (time.perf_counter() - begin) / sum(len(example.input_ids) for example in examples)


def tokens_per_step(basis: Basis) -> float:
    """Tokens of a mean optimizer step, padding excluded."""
    num_tokens = sum(len(example.input_ids) for example in basis.train)
    return num_tokens / basis.setting.train.steps_per_epoch(len(basis.train))


class Work(NamedTuple):
    """Steps to execute."""

    warm_up: Sequence[Sequence[Batch]]  # not timed: the first steps set things up
    timed: Sequence[Sequence[Batch]]
    resumed: Sequence[Sequence[Sequence[Batch]]]  # steps that follow a scoring, for every scoring
    is_fullest: bool  # the warm-up needs as much memory as any step of the study


def _work(load: Workload, seconds_of_one: float) -> Work:
    """The fullest steps and the study's first ones, or the part of a step that is allowed."""
    fullest = load.fullest
    num_longest = sum(batch.num_tokens for step in fullest for batch in step) / len(load.longest.input_ids)
    if num_longest * seconds_of_one <= LIMIT_SECONDS:
        # no step twice if there are enough: its kernels would be compiled already
        num_resumed = NUM_RESUMED * SLOWER_AFTER
        last = (load.first * num_resumed)[-num_resumed:]
        resumed = [last[start : start + SLOWER_AFTER] for start in range(0, num_resumed, SLOWER_AFTER)]
        return Work(fullest, load.first[:-num_resumed] or load.first, resumed, is_fullest=True)
    num_rows = len(load.candidates[0].batch.rows)
    part = load.of_longest(max(1, min(num_rows, int(LIMIT_SECONDS / 3 / seconds_of_one))))
    return Work([[part]], [[part]] * 2, [[[part]]] * NUM_RESUMED, is_fullest=False)


def _time_steps(model: torch.nn.Module, work: Work, loop: Loop) -> list[StepSeconds]:
    """Seconds of as many steps as the time allows, at least one."""
    for micro_batches in work.warm_up:
        _time_step(model, micro_batches, loop)
    begin = time.perf_counter()
    found = [_time_step(model, work.timed[0], loop)]
    for micro_batches in work.timed[1:]:
        if time.perf_counter() - begin > LIMIT_SECONDS:
            break
        found.append(_time_step(model, micro_batches, loop))
    return found


def _usual(timed: Sequence[StepSeconds]) -> Usual:
    """Mean of the middle half: steps are split and packed differently, and any step may be delayed."""
    per_token = _middle_mean([step.gradient / step.num_tokens for step in timed])
    return Usual(per_token, _middle_mean([step.update for step in timed]))


def _middle_mean(values: Sequence[float]) -> float:
    quarter = len(values) // 4
    return statistics.mean(sorted(values)[quarter : len(values) - quarter])


def _interrupted(
    model: torch.nn.Module, work: Work, loop: Loop, score_once: Callable[[], float]
) -> tuple[list[float], list[list[StepSeconds]]]:
    """Seconds of scorings, and of the steps after each."""
    seconds, after = [], []
    for steps in work.resumed:
        seconds.append(score_once())
        after.append([_time_step(model, micro_batches, loop) for micro_batches in steps])
    return seconds, after


def _time_step(model: torch.nn.Module, micro_batches: Sequence[Batch], loop: Loop) -> StepSeconds:
    start = time.perf_counter()
    num_targets = sum(batch.num_targets for batch in micro_batches)
    float(compute_gradient(model, micro_batches, num_targets, loop).norm)
    middle = time.perf_counter()
    update(model, 0, loop)
    _wait(loop.compute.device)
    num_tokens = sum(batch.num_tokens for batch in micro_batches)
    return StepSeconds(middle - start, time.perf_counter() - middle, num_tokens)


def _scored(basis: Basis, load: Workload, plan: ArmPlan, fp32_rate: float) -> list[Example]:
    """Examples to score: a few micro-batches, as the first costs more; or as many as are allowed."""
    assert plan.scoring_flops_per_token is not None, "set together with the step"
    batches = [batch for micro_batches in load.first for batch in micro_batches][:NUM_SCORED]
    examples = [basis.train[row] for row in dict.fromkeys(row for batch in batches for row in batch.rows)]
    seconds = plan.scoring_flops_per_token * sum(len(e.input_ids) for e in examples) / fp32_rate
    return examples[: max(1, int(len(examples) * min(1.0, LIMIT_SECONDS / 2 / seconds)))]


def _seconds(work: Callable[[], object]) -> float:
    """The faster of two times, because the first one sets things up."""
    found = []
    for _ in range(2):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)


# --- without a step


def by_products(basis: Basis, plan: ArmPlan, rates: Rates, study: StudySpec) -> Speed:
    """Lower bound of the time: the plan's FLOPs at the rate of bare matrix products."""
    assert plan.flops_per_token is not None, "set together with the step"
    assert plan.scoring_flops_per_token is not None, "set together with the step"
    return Speed(
        source="products",
        step_seconds=tokens_per_step(basis) * plan.flops_per_token / rates.training,
        score_seconds_per_token=plan.scoring_flops_per_token / rates.training,
        fp32_score_seconds_per_token=plan.scoring_flops_per_token / rates.fp32,
        write_seconds_per_row=study.samples.max_new_tokens * plan.scoring_flops_per_token / rates.training
        if study.select_by
        else None,
        peak_above_start_bytes=None,
    )


def product_rates(setting: PlanContext, arm: Method) -> Rates:
    """Rates measured on the largest linear layer below the head."""
    base = inner_model(build(setting, arm).model)
    head = base.get_output_embeddings()
    layers = [module for module in base.modules() if isinstance(module, LINEAR) and module is not head]
    shape = max((tuple(layer.weight.shape) for layer in layers), key=lambda shape: shape[0] * shape[1])
    training, fp32 = (_rate(shape, DTYPES[precision], setting.device) for precision in (setting.precision, "fp32"))
    return Rates(training, fp32)


def _rate(shape: tuple[int, int], dtype: torch.dtype, device: Device) -> float:
    rows = with_drawn_values(torch.empty(PRODUCT_ROWS, shape[1], dtype=dtype, device="meta")).to(device)
    weight = with_drawn_values(torch.empty(shape, dtype=dtype, device="meta")).to(device)

    def product() -> None:
        torch.nn.functional.linear(rows, weight)
        _wait(device)

    return 2.0 * PRODUCT_ROWS * shape[0] * shape[1] / _seconds(product)


def _free(device: Device) -> int:
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else int(psutil.virtual_memory().available)


def _wait(device: Device) -> None:
    """Wait until the device has finished its work."""
    if device != "cpu":
        torch.get_device_module(device).synchronize()
