"""Refused adapters: kinds other than plain LoRA, and tensors that peft would ignore."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tunewise.adapter.config import CONFIG, LoraOptions
from tunewise.adapter.patterns import NamePattern
from tunewise.errors import ModelError
from tunewise.spec.mistakes import shown
from tunewise.text.suggest import near_miss

PREFIX = "base_model.model."
# Wrappers of a compiled or sharded model, which appear in names.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Options of a LoRA config with which the update is not scale * B A on the base's own weight.
OTHER_UPDATES = {
    "use_dora": "DoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "LoRA with a bias",
    "use_qalora": "QALoRA",
    "target_parameters": "LoRA on parameters outside modules, such as fused experts (target_parameters)",
    "layer_replication": "LoRA on replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
# Kinds of peft 0.21 other than LORA. For none of them is the update scale * B A.
OTHER_KINDS = (
    "ADALORA ADAMSS ADAPTION_PROMPT BEFT BOFT C3A CARTRIDGE CPT DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA IA3 "
    "LILY LN_TUNING LOHA LOKR MISS MULTITASK_PROMPT_TUNING OFT OSF PEANUT POLY PREFIX_TUNING PROMPT_TUNING PSOFT PVERA "
    "P_TUNING RANDLORA ROAD SHADOW SHIRA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA VBLORA VERA WAVEFT XLORA"
)
SPLIT_STARTS = ("pissa", "olora", "corda", "lora_ga", "loftq")


def refuse_other_kinds(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError for a kind whose update is not scale * B A on the base's own weight."""
    kind = str(config.get("peft_type"))
    if kind not in {"LORA", *OTHER_KINDS.split()}:
        raise ModelError(
            f"{folder}: {CONFIG} sets peft_type to {shown(kind)}, which is not a known type, so its tensors cannot be "
            f"interpreted.{near_miss(kind, OTHER_KINDS.split())} Correct it, or use a newer tunewise."
        )
    what = None if kind == "LORA" else kind
    for option, name in OTHER_UPDATES.items():
        if config.get(option):
            what = name
    if what:
        raise ModelError(
            f"{folder} is {what}: its update is not a product of two factors, so it cannot be decomposed "
            "exactly. `tunewise adapter merge` and `verify` work on any adapter that peft can merge."
        )
    start = str(config.get("init_lora_weights"))
    if start.startswith(SPLIT_STARTS):
        raise ModelError(
            f"{folder} is in the format of {start}, in which B A also contains part of the base's "
            "weight. Convert it with peft: save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )


def require_plain_names(folder: Path, names: Iterable[str]) -> None:
    """Raise ModelError for tensors that peft could not assign, whatever the base is."""
    for name in names:
        parts = name.removeprefix(PREFIX).split(".")
        if wrapped := next((part for part in parts if part in WRAPPERS), None):
            raise ModelError(
                f"{folder}: the tensor {shown(name)} was saved from a wrapped model ('{wrapped}'), so peft finds "
                f"no module for it. Remove '{wrapped}.' from all names, or save the unwrapped model again."
            )
        if not name.startswith(PREFIX):
            raise ModelError(
                f"{folder}: the tensor {shown(name)} does not begin with '{PREFIX}', as peft's tensors do. "
                "peft would ignore it. Save the adapter with peft's save_pretrained."
            )


def require_factor(folder: Path, name: str, match: re.Match[str] | None) -> None:
    """Raise ModelError for a LoRA tensor that is not a factor B or A on a module's own weight."""
    if match and match["adapter"] not in (None, "default"):  # peft reads that name as its own
        raise ModelError(
            f"{folder}: the tensor {shown(name)} contains an adapter name ('{match['adapter']}'), which peft "
            "removes when it saves, so peft would ignore the tensor. Remove it from all names, or save again with "
            "save_pretrained."
        )
    is_nested = match is not None and "base_layer" in match["module"].split(".")
    is_other = match is None and any(part.startswith("lora_") for part in name.split(".")[-2:])
    if is_nested or is_other:
        raise ModelError(
            f"{folder}: the tensor {shown(name)} is not a factor of B A on a module's own weight. `tunewise adapter "
            "merge` and `verify` work on any adapter that peft can merge."
        )


def require_targeted(folder: Path, options: LoraOptions, modules: Iterable[str]) -> None:
    """Raise ModelError for factors of modules that the configuration does not adapt: peft would ignore them."""
    targets, names = options.target_modules, [module.removeprefix(PREFIX) for module in modules]
    if targets is None or targets == "all-linear":
        return
    if isinstance(targets, str):
        adapted = set(NamePattern(targets, f"{folder}/{CONFIG}: target_modules", max(map(len, names))).matching(names))
    else:
        endings = set(targets)
        adapted = {name for name in names if any(ending in endings for ending in _endings(name))}
    if left := [name for name in names if name not in adapted]:
        raise ModelError(
            f"{folder}: it contains factors of {shown(left[0])} ({len(left)} such modules), which target_modules in "
            f"{CONFIG} does not name, so peft would ignore them. Correct target_modules, or save again."
        )


def _endings(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))
