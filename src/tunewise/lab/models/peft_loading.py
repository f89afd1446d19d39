"""The only way to load an adapter onto a model: no tensor is ignored, and none is missing."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.save_and_load import load_peft_weights
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from tunewise.adapter.config import CONFIG, WEIGHTS, name_patterns, require_known_options, require_safe
from tunewise.adapter.patterns import deadline
from tunewise.adapter.refusals import PREFIX, require_plain_names
from tunewise.errors import ModelError, clause
from tunewise.lab.private import address_of, renamed_in_checkpoints
from tunewise.spec.mistakes import shown
from tunewise.text.suggest import near_miss

SHOWN_NAMES = 3
# Errors of peft, transformers and safetensors for an unexpected file.
LIBRARY_ERRORS = (
    *(ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError, AssertionError, ArithmeticError),
    *(NotImplementedError, ImportError, OSError, RecursionError, SafetensorError),
)
MISMATCH = re.compile(r"size mismatch for (\S+): .*?torch\.Size\(\[([\d, ]*)\]\).*?torch\.Size\(\[([\d, ]*)\]\)", re.S)


def load_adapter(model: PreTrainedModel, folder: Path, base: str) -> PeftModel:
    """The adapter in `folder` loaded onto `model`, which messages call `base`.

    Raises ModelError if it is not an adapter, if the base has no place for one of its tensors, if it lacks a tensor
    that the base needs, and for numbers that are not finite.
    """
    config = require_safe(folder)
    require_known_kind(folder, config)
    _require_quick_patterns(folder, config, model)
    _require_finite(folder)
    with _readable(folder, base, model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing keys, which are an error below
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=False)
        _require_all_taken(adapted, folder, base)
    return adapted


def require_known_kind(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError for an adapter's kind or option that the installed peft does not know."""
    known = {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    kind = str(config["peft_type"])
    if kind not in known:
        raise ModelError(
            f"{folder}: {CONFIG} sets peft_type to {shown(kind)}, which the installed peft does not know."
            f"{near_miss(kind, known)} Known: {', '.join(known)}. Install a newer peft, or correct it."
        )
    require_known_options(f"{folder}/{CONFIG}", config, known[kind].__dataclass_fields__)
    if kind in ("LORA", "ADALORA"):  # other kinds, such as prompts, have other names
        require_plain_names(folder, tensor_shapes(folder))


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the adapter, by its name in the file. Raises ModelError for a damaged file."""
    with _readable_file(folder), safe_open(folder / WEIGHTS, framework="numpy") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


@contextmanager
def _readable_file(folder: Path) -> Iterator[None]:
    """Turn the error of a damaged file of weights into a ModelError that names it."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder / WEIGHTS} is damaged: {clause(error)}. Download or save it again.") from error


def require_complete(folder: Path, base: str, new_parameters: Iterable[str]) -> None:
    """Raise ModelError for a weight that both the base's checkpoint (`new_parameters`) and the adapter lack."""
    held = {name.removeprefix(PREFIX).replace(".modules_to_save.", ".") for name in tensor_shapes(folder)}
    if lost := [name for name in new_parameters if name not in held]:
        raise ModelError(
            f"{lost[0]} is neither in '{base}' nor in {folder}. It was random during training, "
            f"and is lost ({len(lost)} "
            "such tensors). Train the adapter again with modules_to_save."
        )


def _require_quick_patterns(folder: Path, config: Mapping[str, Any], model: torch.nn.Module) -> None:
    """Raise ModelError for patterns of the adapter that would not finish soon on the modules of this base."""
    names, end = [name for name, _ in model.named_modules()], deadline()
    for pattern in name_patterns(f"{folder}/{CONFIG}", config, max(map(len, names))):
        pattern.matching(names, end)


@contextmanager
def _readable(folder: Path, base: str, model: PreTrainedModel) -> Iterator[None]:
    """Turn errors of the loading libraries into one ModelError that names tensors and shapes."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except LIBRARY_ERRORS as error:
        text = str(error).strip()
        found = MISMATCH.findall(text)
        if found:
            raise ModelError(_other_shapes(folder, base, found, model)) from error
        said = f"it lacks the tensor {text}" if isinstance(error, KeyError) else text.split("\n\n")[0] or repr(error)
        raise ModelError(
            f"{folder} does not fit '{base}': {said[:600]} Check that --base is the model that it was trained on."
        ) from error


def _other_shapes(folder: Path, base: str, found: list[tuple[str, str, str]], model: PreTrainedModel) -> str:
    examples = "; ".join(
        f"{name.replace('.default', '')} is ({theirs}) in the adapter and ({ours}) in the base"
        for name, theirs, ours in found[:SHOWN_NAMES]
    )
    size = model.get_input_embeddings().weight.shape[0]
    rows = {int(theirs.split(",")[0]) for _, theirs, ours in found if theirs and ours.split(",")[0] == str(size)}
    advice = "Name the base that it was trained on with --base."
    if len(rows) == 1:
        vocabulary = rows.pop()
        advice = (
            f"The adapter was trained with a vocabulary of {vocabulary:,} tokens, but the base has "
            f"{size:,}. Save the base "
            f"with as many: model.resize_token_embeddings({vocabulary}), "
            "model.save_pretrained(folder). Put the tokenizer of the adapter into that folder, and use it as the base."
        )
    return f"{folder} does not fit '{base}': {len(found)} tensors have other shapes: {examples}. {advice}"


def _require_all_taken(adapted: PeftModel, folder: Path, base: str) -> None:
    """Raise ModelError unless every tensor of the file has its place in the model, and every place its tensor."""
    unused, lacking = _differences(adapted, folder)
    if not unused and not lacking:
        return
    parts = []
    if unused:
        parts.append(f"{len(unused)} of its tensors have no place in the base, such as {_listed(unused)}")
    if lacking:
        parts.append(f"{len(lacking)} tensors that the base needs are not in it, such as {_listed(lacking)}")
    raise ModelError(
        f"{folder} does not fit '{base}': {'; '.join(parts)}. That part of the adapter would have no "
        f"effect. Name the base that it was trained on, or correct the names in {WEIGHTS} and {CONFIG}."
    )


def _differences(adapted: PeftModel, folder: Path) -> tuple[list[str], list[str]]:
    """Names of tensors that the model ignored, and of those that it lacks.

    peft's own report is incomplete: it omits ignored tensors, and for prompts lists all tensors of the base.
    """
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    config = adapted.active_peft_config
    if config.is_prompt_learning or config.peft_type == PeftType.ADALORA:  # truncates its ranks on loading: works once
        given = set(tensor_shapes(folder))
        return sorted(given - set(expected)), sorted(set(expected) - given)
    # loaded again, because `from_pretrained` does not report; it names tensors as transformers renamed them
    mapping = renamed_in_checkpoints(adapted.get_base_model())
    stored = load_peft_weights(str(folder), device="cpu", key_mapping=mapping)
    result = set_peft_model_state_dict(adapted, stored, adapter_name="default")
    state, missing = adapted.state_dict(), set(result.missing_keys)
    # one tensor may have several names (VB-LoRA, TinyLoRA): one of them is enough
    given_storages = {_storage(tensor) for name, tensor in state.items() if name not in missing}
    own = {_storage(tensor) for tensor in expected.values()}
    lacking = [
        name
        for name, tensor in state.items()
        if name in missing and _storage(tensor) in own and _storage(tensor) not in given_storages
    ]
    return sorted(result.unexpected_keys), sorted(lacking)


def _storage(tensor: torch.Tensor) -> int:
    return address_of(tensor.untyped_storage())  # also for tensors without memory


def _listed(names: Iterable[str]) -> str:
    return ", ".join(shown(name) for name in list(names)[:SHOWN_NAMES])


def _require_finite(folder: Path) -> None:
    """Raise ModelError for NaN, and for numbers that are infinite in fp32, in which everything is computed."""
    broken, whole = [], []
    with _readable_file(folder), safe_open(folder / WEIGHTS, framework="pt") as tensors:
        names = list(tensors.keys())
        for name in names:
            tensor = tensors.get_tensor(name)
            if ".lora_" in name and not tensor.is_floating_point():
                whole.append(f"{name} ({tensor.dtype})")
            elif not bool(torch.isfinite(tensor.float()).all()):
                broken.append(name)
    if whole:
        raise ModelError(
            f"{folder}: {len(whole)} factors are stored as integers, such as {_listed(whole)}. Store them as "
            "fp32, fp16 or bf16."
        )
    if broken:
        raise ModelError(
            f"{folder}: {len(broken)} of {len(names)} tensors contain NaN or infinite numbers, "
            f"such as {_listed(broken)}. "
            "The training diverged, or the file is damaged. Train again, or use an earlier checkpoint."
        )
