"""The plan of a whole study, from its model's configuration and its data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedConfig

from tunewise.lab.data.batching import Batching, Example, read_examples
from tunewise.lab.data.prepare import prepare_examples
from tunewise.lab.methods.placements import expand_placements
from tunewise.lab.models import context_length, is_encoder, load_tokenizer
from tunewise.lab.plan.arm import plan_arm
from tunewise.lab.plan.blank import blank_base
from tunewise.lab.plan.configurations import configuration
from tunewise.lab.plan.subject import Kernels, Setting, try_kernels
from tunewise.lab.plan.workload import Workload, assumed_examples, workload
from tunewise.lab.train.meters import pick_device
from tunewise.lab.train.precision import pick_precision
from tunewise.placements import is_open
from tunewise.plans import ArmPlan, PlanRequest, StudyPlan, Work
from tunewise.records import DataSummary, SplitSummary
from tunewise.spec import NO_DATA, Device, ExistingMethod, Method, StudySpec, Task

ASSUMED_LABELS = 2
ASSUMED_STEPS = 1000  # for methods that plan with the length of a run, where it is not known


@dataclass(frozen=True)
class Known:
    """What is known of the data."""

    task: Task
    num_labels: int
    heads: tuple[str, ...] | None  # modules that learn in every arm; None: not known without the weights
    train: list[Example]
    splits: tuple[SplitSummary, ...]  # (): nothing but the largest length


def plan_study(study: StudySpec, folder: Path, request: PlanRequest) -> StudyPlan:
    """What every arm of `study` needs.

    `folder` holds the study's prepared data, or becomes the place for it: a plan needs no weights. Raises UserError.
    """
    config = configuration(study.model, study.task, study.trust_remote_code)
    known = _known(study, config, folder)
    device = request.device or study.machine.device or pick_device()
    precision = request.precision or study.machine.precision or pick_precision(device)
    num_rows = len(known.train) if known.splits else study.data.limit.train
    num_steps = study.train.num_steps(num_rows) if num_rows else study.train.max_steps
    setting = Setting(
        config=configuration(study.model, known.task, study.trust_remote_code),
        task=known.task,
        num_labels=known.num_labels,
        heads=known.heads,
        train=study.train,
        num_steps=num_steps or ASSUMED_STEPS,
        device=device,
        precision=precision,
        attention=study.machine.attention,
    )
    if any(is_open(arm) for arm in study.arms.values()):
        study = expand_placements(study, blank_base(setting.config, setting.task, setting.num_labels, setting.heads))
    memory_bytes = request.memory_bytes or _memory(device)
    works = cache(partial(workload, known.train, study.train, study.search_seeds()[0]))
    return StudyPlan(
        model=study.model,
        model_type=config.model_type,
        task=known.task,
        device=device,
        precision=precision,
        threads=study.machine.threads or torch.get_num_threads(),
        memory_bytes=memory_bytes,
        work=Work(
            num_rows=num_rows,
            num_steps=num_steps,
            batch_size=study.train.batch_size,
            longest=max(len(example.input_ids) for example in known.train),
            tokens_per_row=sum(len(example.input_ids) for example in known.train) / len(known.train),
            splits=known.splits,
        ),
        arms={
            name: _plan_arm(setting, arm, memory_bytes, works)
            for name, arm in study.arms.items()
            if not isinstance(arm, ExistingMethod)
        },
    )


def _plan_arm(setting: Setting, arm: Method, memory_bytes: int, works: Callable[[Batching], Workload]) -> ArmPlan:
    kernels = try_kernels(setting, arm)
    batching = (kernels or Kernels(None, 0)).batching(setting.train)
    return plan_arm(setting, works(batching), arm, kernels, memory_bytes)


def _known(study: StudySpec, config: PreTrainedConfig, folder: Path) -> Known:
    if study.data.train == NO_DATA:
        task = study.task or ("classify" if is_encoder(config) else "sft")
        length = min(study.data.max_length, context_length(config))
        return Known(task, ASSUMED_LABELS, None, assumed_examples(task, study.train.batch_size, length), ())
    summary = folder / "data.json"
    if summary.is_file():
        data = DataSummary.model_validate_json(summary.read_text(encoding="utf-8"))
        return Known(
            data.task, len(data.labels), data.head_modules, read_examples(folder / "train.parquet"), data.splits
        )
    tokenizer = load_tokenizer(study.model, config, study.trust_remote_code)
    found = prepare_examples(study, tokenizer, context_length(config), folder)
    return Known(found.task, len(found.labels), None, read_examples(folder / "train.parquet"), found.splits)


def _memory(device: Device) -> int:
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return int(psutil.virtual_memory().total)
