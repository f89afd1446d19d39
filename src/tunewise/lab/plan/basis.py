"""Basis of a study's plan: its model's configuration, its data, and facts about both."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from tunewise.lab.data.batching import Example, read_examples
from tunewise.lab.data.prepare import prepare_examples
from tunewise.lab.evaluate.generate import stops_of_base
from tunewise.lab.machine import pick_device
from tunewise.lab.methods.placements import expand_placements
from tunewise.lab.models.context import context_length
from tunewise.lab.models.load import is_encoder, load_tokenizer, model_source
from tunewise.lab.plan.configurations import configuration
from tunewise.lab.plan.meta_model import blank_base
from tunewise.lab.plan.setting import Kernels, PlanContext
from tunewise.lab.plan.workload import Workload, assumed_examples, workload
from tunewise.lab.weights.narrow import stored_precision
from tunewise.lab.weights.precision import pick_precision
from tunewise.records import DataSummary, SplitSummary
from tunewise.records.plan import PlanRequest
from tunewise.spec import NO_DATA, Frozen, Method, Precision, StudySpec, Task
from tunewise.spec.expand import with_head_arm
from tunewise.storage.disk import write_atomically

ASSUMED_LABELS = 2
ASSUMED_STEPS = 1000  # for methods that depend on the length of a run, if it is not known


class Known(Frozen):
    """Facts about the data."""

    task: Task
    num_labels: int
    heads: tuple[str, ...] | None  # modules trained in every arm; None: not known without the weights
    splits: tuple[SplitSummary, ...]  # (): only the largest length is known


@dataclass(frozen=True)
class Basis:
    """Basis of the plans of all arms of a study."""

    study: StudySpec
    setting: PlanContext
    known: Known
    train: list[Example]
    num_rows: int | None  # None: not known

    def arms(self) -> dict[str, Method]:
        """Arms that train."""
        return {**self.study.trained_arms}

    def workload(self, kernels: Kernels | None) -> Workload:
        """Batches of the study's first search seed; `kernels` None: the model's own."""
        batching = (kernels or Kernels(None, 0)).batching(self.setting.train)
        return workload(self.train, self.setting.train, self.study.search_seeds()[0], batching)


def basis_of(study: StudySpec, folder: Path, request: PlanRequest) -> Basis:
    """Basis of a plan, read from `folder` or determined and stored there. Raises UserError."""
    config = configuration(study.model, study.task, study.trust_remote_code)
    known, train = _known(study, config, folder)
    device = request.device or study.machine.device or pick_device()
    num_rows = len(train) if known.splits else study.data.limit.train
    num_steps = study.train.num_steps(num_rows) if num_rows else study.train.max_steps
    setting = PlanContext(
        config=configuration(study.model, known.task, study.trust_remote_code),
        task=known.task,
        num_labels=known.num_labels,
        heads=known.heads,
        train=study.train,
        num_steps=num_steps or ASSUMED_STEPS,
        device=device,
        precision=request.precision or study.machine.precision or pick_precision(device),
        attention=study.machine.attention,
        scoring=study.machine.scoring,
        stored=_stored(study, config),
    )
    if any(arm.has_open_targets for arm in study.arms.values()):
        study = expand_placements(study, blank_base(setting.config, setting.task, setting.num_labels, setting.heads))
    return Basis(with_head_arm(study, known.task), setting, known, train, num_rows)


def _stored(study: StudySpec, config: PreTrainedConfig) -> Precision | None:
    """Type of the checkpoint's tensors: as its files say, or without them its configuration."""
    source = model_source(study.model)
    if Path(source).is_dir() and any(Path(source).glob("*.safetensors")):
        return stored_precision(source, study.model)
    of: dict[torch.dtype | None, Precision] = {torch.bfloat16: "bf16", torch.float32: "fp32"}
    return of.get(config.dtype)


def _known(study: StudySpec, config: PreTrainedConfig, folder: Path) -> tuple[Known, list[Example]]:
    if study.data.train == NO_DATA:
        task = study.task or ("classify" if is_encoder(config) else "sft")
        length = min(study.data.max_length, context_length(config))
        examples = assumed_examples(task, study.train.batch_size, length)
        return Known(task=task, num_labels=ASSUMED_LABELS, heads=None, splits=()), examples
    summary, left = folder / "data.json", folder / "known.json"
    if summary.is_file():
        data = DataSummary.model_validate_json(summary.read_text(encoding="utf-8"))
        known = Known(task=data.task, num_labels=len(data.labels), heads=data.head_modules, splits=data.splits)
    elif left.is_file():
        known = Known.model_validate_json(left.read_text(encoding="utf-8"))
    else:
        tokenizer = load_tokenizer(study.model, config, study.trust_remote_code)
        stops = stops_of_base(study.model, config, tokenizer)
        found = prepare_examples(study, tokenizer, context_length(config), folder, stops)
        known = Known(task=found.task, num_labels=len(found.labels), heads=None, splits=found.splits)
        write_atomically(left, known.model_dump_json())
    return known, read_examples(folder / "train.parquet")
