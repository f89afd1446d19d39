"""Plan of a whole study, from its model's configuration and its data."""

from functools import cache
from pathlib import Path

import psutil
import torch

from tunewise.lab.machine import pick_device
from tunewise.lab.plan.arm import plan_arm
from tunewise.lab.plan.basis import basis_of
from tunewise.lab.plan.families import plan_arms
from tunewise.lab.plan.kernels import try_kernels
from tunewise.records.plan import MOST_TOKENS, TIGHT, ArmPlan, PlanRequest, StudyPlan, Work, fitting_tokens
from tunewise.spec import Device, Method, StudySpec


def plan_study(study: StudySpec, folder: Path, request: PlanRequest) -> StudyPlan:
    """Needs of every arm of `study`.

    `folder` holds the study's prepared data, or becomes the place for it: a plan needs no weights. Raises UserError.
    `auto` micro-batches are as large as fits in every arm.
    """
    if study.train.micro_batch_tokens != "auto":
        return _plan(study, folder, request)
    device = request.device or study.machine.device or pick_device()
    largest = _plan(_with_tokens(study, MOST_TOKENS[device]), folder, request)
    tokens = fitting_tokens(largest)
    return largest if tokens >= largest.micro_batch_tokens else _plan(_with_tokens(study, tokens), folder, request)


def _with_tokens(study: StudySpec, tokens: int) -> StudySpec:
    return study.replace(train=study.train.replace(micro_batch_tokens=tokens))


def _plan(study: StudySpec, folder: Path, request: PlanRequest) -> StudyPlan:
    basis = basis_of(study, folder, request)
    setting, memory_bytes = basis.setting, request.memory_bytes or memory_of(basis.setting.device)
    lengths = [len(example.input_ids) for example in basis.train]
    workload_of = cache(basis.workload)

    def plan(arm: Method, check: bool = True) -> ArmPlan:
        kernels = try_kernels(setting, arm)
        return plan_arm(setting, workload_of(kernels), arm, kernels, int(TIGHT * memory_bytes), check)

    return StudyPlan(
        model=study.model,
        model_type=setting.config.model_type,
        task=setting.task,
        device=setting.device,
        precision=setting.precision,
        threads=study.machine.threads or torch.get_num_threads(),
        memory_bytes=memory_bytes,
        micro_batch_tokens=setting.train.tokens_at_once,
        work=Work(
            num_rows=basis.num_rows,
            num_steps=study.train.num_steps(basis.num_rows) if basis.num_rows else study.train.max_steps,
            batch_size=study.train.batch_size,
            longest=max(lengths),
            tokens_per_row=sum(lengths) / len(lengths),
            splits=basis.known.splits,
        ),
        arms=plan_arms(basis.arms(), plan),
    )


def memory_of(device: Device) -> int:
    """Bytes of the whole device."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return int(psutil.virtual_memory().total)
