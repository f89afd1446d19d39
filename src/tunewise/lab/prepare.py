"""Everything that can be checked before training: data, model, machine, and what each arm will train.

Mistakes are reported here, in the first seconds of a study.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, set_seed

from tunewise.adapter.config import CONFIG
from tunewise.errors import DataError, ModelError, SpecError
from tunewise.inputs.training import thinned, training_of
from tunewise.lab.data.chat.template import read_template
from tunewise.lab.data.column_names import label_advice
from tunewise.lab.data.prepare import PreparedExamples, data_key, prepare_examples
from tunewise.lab.data.sources.sources import read_source
from tunewise.lab.evaluate.generate import stops_of_base
from tunewise.lab.machine import pick_device, require_device
from tunewise.lab.methods import describe
from tunewise.lab.methods.placements import expand_placements
from tunewise.lab.methods.towers import tower_notes
from tunewise.lab.models.context import context_length
from tunewise.lab.models.fingerprints import FileHashes, minor_versions, text_fingerprint, tokenizer_fingerprint
from tunewise.lab.models.limits import require_unrounded
from tunewise.lab.models.load import (
    Base,
    load_base,
    load_config,
    load_tokenizer,
    load_tuned,
    model_source,
)
from tunewise.lab.models.peft_loading import require_complete
from tunewise.lab.models.usable import enough_memory, require_usable, unnamed_classes
from tunewise.lab.plan.setting import PlanContext, build
from tunewise.lab.weights.precision import pick_precision
from tunewise.records import DataSummary, TrainableSummary
from tunewise.records.data import LeftByTrainer
from tunewise.spec import ExistingMethod, Inputs, Method, StudySpec, Task, canonical_json
from tunewise.storage.disk import delete, make_folder, write_atomically
from tunewise.storage.seal import DATA_HASHES, data_is_whole, seal_data


def prepare(study: StudySpec, root: Path) -> str:
    """Prepare the study and return the key of its data: `root/<key>` then holds data.json and all splits.

    Nothing is done twice: the key is a hash of all inputs. Raises UserError for any mistake.
    """
    require_device(study.machine.device or "cpu")
    hashes = FileHashes(make_folder(root) / "hashes.json")
    config = load_config(study.model, study.task, study.trust_remote_code)
    require_unrounded(study.model, model_source(study.model), config)
    tokenizer = load_tokenizer(study.model, config, study.trust_remote_code)
    tokens_by = tokenizer_fingerprint(tokenizer)
    base_hash = hashes.of_model(study.model, config)
    existing = {name: _weights_of(name, arm, hashes) for name, arm in study.existing_arms.items()}
    left = {name: _left_in(arm.folders) for name, arm in study.existing_arms.items()}
    arms = {name: arm.model_dump(mode="json") for name, arm in study.arms.items()}
    of_machine = study.machine.model_dump(include={"device", "precision", "threads", "attention"})
    machine = [of_machine, pick_device(), torch.get_num_threads()]
    asked = canonical_json([arms, existing, machine, study.model, study.task, minor_versions(), *_any_left(left)])
    data = data_key(study, tokens_by)
    key = text_fingerprint(asked, base_hash, data)[:16]
    folder = root / key
    if data_is_whole(folder):
        _make_newest(folder / "data.json")
        return key
    delete(folder / DATA_HASHES)  # first: while it exists, the files that it names are complete
    make_folder(folder)
    stops = stops_of_base(study.model, config, tokenizer)
    examples = prepare_examples(study, tokenizer, context_length(config), folder, stops)
    if data_key(study, tokens_by) != data:  # the data was read more than once, and is stored under this name
        raise DataError(
            "the data changed while it was prepared. Run the same command again without changing its files."
        )
    _require_task(study, examples.task)
    inputs = Inputs(
        base=base_hash,
        tokenizer=tokens_by,
        data=examples.data,
        general=examples.general,
        existing=None,
        versions=minor_versions(),
    )
    base = _usable_base(study, tokenizer, examples, folder)
    notes = (*examples.notes, *base.notes, *tower_notes(base), *_try_existing(study, tokenizer, examples, folder))
    chosen = study.data.chat_template
    template = read_template(chosen, tokenizer) if chosen else None
    summary = _summary(study, config, base, replace(examples, notes=notes), inputs, template)
    summary = summary.replace(key=key, existing=existing, left=left)
    write_atomically(folder / "data.json", summary.model_dump_json(indent=1))
    seal_data(folder)
    _make_newest(folder / "data.json")
    return key


def _weights_of(name: str, arm: ExistingMethod, hashes: FileHashes) -> str | tuple[str, ...]:
    """Fingerprint of an arm trained elsewhere, or of each of its seeds. Raises SpecError if two of them are copies."""
    found = tuple(hashes.of_weights(Path(folder)) for folder in arm.folders)
    if not arm.paths:
        return found[0]
    seen: dict[tuple[str, ...], str] = {}
    for folder in arm.paths:
        weights = hashes.of_tensors(Path(folder))
        if weights in seen:
            raise SpecError(
                f"arms.{name}.paths: {seen[weights]} and {folder} hold the same weights, but copies are not seeds. "
                "Name the folder of every seed once."
            )
        seen[weights] = folder
    return found


def _left_in(folders: Sequence[str]) -> tuple[LeftByTrainer, ...]:
    return tuple(thinned(training_of(Path(folder))) for folder in folders)


def _any_left(left: Mapping[str, Sequence[LeftByTrainer]]) -> list[object]:
    """What trainers left, as part of the key of the data; empty if they left nothing, so that old keys stay valid."""
    content = {arm: [of.model_dump(mode="json") for of in folders] for arm, folders in left.items()}
    return [content] if any(of.sources for folders in left.values() for of in folders) else []


def _require_task(study: StudySpec, task: Task) -> None:
    """Raise ModelError if the model cannot do the task of the data, with the line that would change the task."""
    try:
        load_config(study.model, task, study.trust_remote_code)
    except ModelError as error:
        data = study.data
        hint = label_advice(read_source(data.train, "train", data.document_separator, data.delimiter).first())
        raise ModelError(f"{error}{hint if study.task is None else ''}") from error


def _make_newest(summary: Path) -> None:
    """Make a folder newer than all others, even if the clock was set back: the newest one is in use."""
    others = [path.stat().st_mtime_ns for path in summary.parents[1].glob("*/data.json") if path != summary]
    now = max([time.time_ns(), *(other + 1_000_000_000 for other in others)])  # some disks count in seconds
    os.utime(summary, ns=(now, now), follow_symlinks=False)


def _usable_base(
    study: StudySpec, tokenizer: PreTrainedTokenizerBase, examples: PreparedExamples, folder: Path
) -> Base:
    set_seed(0)
    with enough_memory(study.model):
        base = load_base(study.model, examples.task, examples.labels, tokenizer, study.trust_remote_code)
        require_usable(study.model, base.model, folder, tokenizer)
    return base


def _try_existing(
    study: StudySpec, tokenizer: PreTrainedTokenizerBase, examples: PreparedExamples, folder: Path
) -> list[str]:
    """Remarks on models that were trained elsewhere. Raises ModelError for one that cannot be scored."""
    notes = []
    for path in (path for arm in study.existing_arms.values() for path in arm.folders):
        with enough_memory(path):
            base = load_base(study.model, examples.task, examples.labels, tokenizer, study.trust_remote_code)
            tuned = load_tuned(base, Path(path), study.trust_remote_code)
            if (Path(path) / CONFIG).is_file():
                require_complete(Path(path), study.model, base.new_parameters)
            require_usable(path, tuned, folder, tokenizer)
        notes += unnamed_classes(path, examples.labels)
    return notes


def _summary(
    study: StudySpec,
    config: PreTrainedConfig,
    base: Base,
    examples: PreparedExamples,
    inputs: Inputs,
    template: str | None,
) -> DataSummary:
    device = study.machine.device or pick_device()
    return DataSummary(
        key="",
        task=examples.task,
        labels=examples.labels,
        splits=examples.splits,
        example_prompt=examples.example_prompt,
        example_supervised=examples.example_supervised,
        notes=examples.notes,
        exact_duplicates=examples.exact_duplicates,
        near_duplicates=examples.near_duplicates,
        test_set=examples.test_set,
        laws=examples.laws,
        is_chat=examples.is_chat,
        chat_template=template,
        inputs=inputs,
        model_type=config.model_type,
        hidden_size=int(config.get_text_config().hidden_size),
        num_new_parameters=sum(base.model.get_parameter(name).numel() for name in base.new_parameters),
        head_modules=base.head_modules,
        arms=_describe_arms(study, config, base, examples),
        device=device,
        precision=study.machine.precision or pick_precision(device),
        threads=study.machine.threads or torch.get_num_threads(),
    )


def _describe_arms(
    study: StudySpec, config: PreTrainedConfig, base: Base, examples: PreparedExamples
) -> dict[str, TrainableSummary]:
    """What each arm will train, found on a model without storage. Raises SpecError for an arm that cannot be built."""
    study = expand_placements(study, base)
    if study.train.gradient_checkpointing:
        _require_checkpointing(study, base)
    setting = PlanContext(
        config=type(config).from_dict({**config.to_dict(), **base.model.config.to_dict()}),
        task=examples.task,
        num_labels=len(examples.labels),
        heads=base.head_modules,
        train=study.train,
        num_steps=study.train.num_steps(next(split.rows for split in examples.splits if split.split == "train")),
        device="cpu",
        precision="fp32",
        attention=None,
    )

    def tuned(method: Method) -> TrainableSummary:
        subject = build(setting, method)
        return describe(subject.model, subject.method)

    return {name: tuned(method) for name, method in study.trained_arms.items()}


def _require_checkpointing(study: StudySpec, base: Base) -> None:
    instead = "or remove train.gradient_checkpointing"
    if not base.model.supports_gradient_checkpointing:
        raise ModelError(
            f"model '{study.model}' ({base.model.config.model_type}) cannot recompute its activations for the "
            f"gradient. Use another model, {instead}."
        )
    for name, arm in study.arms.items():
        if getattr(arm, "type", None) == "PREFIX_TUNING":
            raise SpecError(
                f"arm '{name}': PREFIX_TUNING passes its prefix to the model as a cache, which gradient checkpointing "
                f"ignores. Use PROMPT_TUNING or P_TUNING, {instead}."
            )
