"""Adapters that are refused: kinds that are no plain LoRA, and tensors that peft would pass over."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tunewise.adapter.config import CONFIG, LoraOptions
from tunewise.adapter.patterns import NamePattern
from tunewise.errors import ModelError
from tunewise.spec.mistakes import shown

PREFIX = "base_model.model."
# What a module is called within while it is compiled or sharded.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Options of a LoRA config with which the update is not scale * B A on the base's own weight.
OTHER_UPDATES = {
    "use_dora": "DoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "LoRA with a bias",
    "use_qalora": "QALoRA",
    "target_parameters": "LoRA on parameters that are no module's own, such as fused experts (target_parameters)",
    "layer_replication": "LoRA on replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
SPLIT_STARTS = ("pissa", "olora", "corda", "lora_ga", "loftq")


def refuse_other_kinds(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises ModelError for a kind whose update is not scale * B A on the base's own weight."""
    kind = str(config.get("peft_type"))
    what = None if kind == "LORA" else kind
    for option, name in OTHER_UPDATES.items():
        if config.get(option):
            what = name
    if what:
        raise ModelError(
            f"{folder} is {what}: its change of the weights is no product of two factors, so it cannot be taken apart "
            "exactly. `tunewise adapter merge` and `verify` work on whatever peft can merge."
        )
    start = str(config.get("init_lora_weights"))
    if start.startswith(SPLIT_STARTS):
        raise ModelError(
            f"{folder} is in the format of {start}, where B A also holds a part of the base's weight. Convert it with "
            "peft: save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )


def require_plain_names(folder: Path, names: Iterable[str]) -> None:
    """Raises ModelError for tensors that peft would find no place for, whatever the base is."""
    for name in names:
        parts = name.removeprefix(PREFIX).split(".")
        if wrapped := next((part for part in parts if part in WRAPPERS), None):
            raise ModelError(
                f"{folder}: the tensor {shown(name)} was saved from a wrapped model ('{wrapped}'), so that peft finds "
                f"no module for it. Take '{wrapped}.' out of all names, or save the unwrapped model again."
            )
        if not name.startswith(PREFIX):
            raise ModelError(
                f"{folder}: the tensor {shown(name)} does not begin with '{PREFIX}', as all tensors that peft saves. "
                "peft would pass over it. Save the adapter with peft's save_pretrained."
            )


def require_factor(folder: Path, name: str, match: re.Match[str] | None) -> None:
    """Raises ModelError for a tensor of LoRA that is no factor B or A on a module's own weight."""
    if match and match["adapter"] not in (None, "default"):  # peft takes that one for its own
        raise ModelError(
            f"{folder}: the tensor {shown(name)} has the name of an adapter in it ('{match['adapter']}'), which peft "
            "takes out when it saves, so that peft would pass over it. Take it out of all names, or save again with "
            "save_pretrained."
        )
    is_nested = match is not None and "base_layer" in match["module"].split(".")
    is_other = match is None and any(part.startswith("lora_") for part in name.split(".")[-2:])
    if is_nested or is_other:
        raise ModelError(
            f"{folder}: the tensor {shown(name)} is no factor of B A on a module's own weight. `tunewise adapter "
            "merge` and `verify` work on whatever peft can merge."
        )


def require_targeted(folder: Path, options: LoraOptions, modules: Iterable[str]) -> None:
    """Raises ModelError for factors of modules that the configuration does not adapt: peft would pass over them."""
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
            f"{folder}: it holds factors of {shown(left[0])} ({len(left)} such modules), which target_modules in "
            f"{CONFIG} does not name, so that peft would pass over them. Correct target_modules, or save again."
        )


def _endings(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))
