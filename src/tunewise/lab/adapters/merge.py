"""Merge an adapter into its base in fp32, cast once, store it as sharded safetensors, and score both."""

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tunewise.adapter.records import Merging, Rounding, Stored
from tunewise.errors import ModelError
from tunewise.lab.adapters.forms import Forms
from tunewise.lab.adapters.load import AdapterFolder
from tunewise.lab.adapters.rows import ScoredRows
from tunewise.lab.models.library_errors import quiet_transformers
from tunewise.lab.models.load import padding_id
from tunewise.storage.disk import new_folder, require_new
from tunewise.storage.files import files_below

DTYPES: dict[Stored, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class MergePlan:
    """What to merge, onto which weights, and how to store it."""

    adapter: AdapterFolder
    trained_on: Rounding  # storage of the base's weights while the adapter was trained
    onto: Rounding  # 'whole', or the quantized weights of `trained_on`
    stored: Stored
    out: Path


def merge(plan: MergePlan, rows: ScoredRows) -> Merging:
    """Write the merged model with its tokenizer to `plan.out` and report on it; each form is scored on `rows`.

    Raises ModelError if the adapter cannot be merged, does not fit its base, or `out` is in use.
    """
    adapter = plan.adapter
    adapter.require_mergeable()
    require_new(plan.out)
    forms = Forms(rows.examples, padding_id(adapter.tokenizer), rows.has_answers)
    adapted = adapter.put_on(adapter.load_base(plan.trained_on))
    forms.measure("adapter", adapted)
    if plan.onto != plan.trained_on:
        adapted = adapter.put_on(adapter.load_base(plan.onto))
    merged = merge_in_fp32(adapter, adapted)
    forms.measure("merged, fp32", merged)
    with new_folder(plan.out) as place:
        store(merged, adapter, plan.stored, place)
    del adapted, merged
    forms.measure(f"read back, {plan.stored}", read_back(adapter, plan.out))
    return Merging(
        adapter=str(adapter.path),
        base=adapter.base,
        trained_on=plan.trained_on,
        onto=plan.onto,
        stored=plan.stored,
        scored_on=rows.source,
        files=tuple(str(path.relative_to(plan.out)) for path in files_below(plan.out)),
        forms=tuple(forms.found),
        note=rows.note,
    )


def merge_in_fp32(adapter: AdapterFolder, adapted: PeftModel) -> PreTrainedModel:
    """The base with the adapter merged into its weights, all fp32.

    Raises ModelError if peft cannot merge, or finds NaN.
    """
    assert {p.dtype for p in adapted.parameters()} == {torch.float32}, "cast once, at the end"
    try:
        merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ModelError(f"{adapter.path} cannot be merged: {str(error).strip().splitlines()[0]}") from error
    return merged


def store(merged: PreTrainedModel, adapter: AdapterFolder, stored: Stored, folder: Path) -> None:
    """Write a transformers folder of safetensors in shards of 5 GB, cast once, with the tokenizer."""
    with new_folder(folder) as place:
        with quiet_transformers():
            merged.to(DTYPES[stored]).save_pretrained(place, max_shard_size=SHARD_BYTES)
        adapter.tokenizer.save_pretrained(place)


def read_back(adapter: AdapterFolder, folder: Path) -> PreTrainedModel:
    """The model stored in `folder`, computed in fp32, so that only the storage makes a difference."""
    return AdapterFolder(adapter.path, str(folder)).load_base("whole")
