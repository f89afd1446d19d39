"""Experts of a mixture that are stored as one tensor: which parameters they are, and how peft adapts them.

peft adapts such a parameter, (E, M, N) or (E, N, M) for E experts, by one pair of factors for each expert. In every
forward pass it adds all products to the weights (`target_parameters`).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import ParamWrapper

from tunewise.errors import SpecError
from tunewise.lab.models.class_order import LINEAR

try:  # since peft 0.19; earlier versions rename nothing
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers as rename_targets
except ImportError:
    rename_targets = None

# Options of a LoraConfig that such adapters do not have -> how a message names them.
IMPOSSIBLE = {"lora_dropout": "dropout", "use_dora": "DoRA", "lora_bias": "a bias", "fan_in_fan_out": "Conv1D"}
POSSIBLE_STARTS = (True, False, "gaussian")


def expert_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Full name -> size of every parameter that holds the weights of several experts, in model order."""
    return {
        f"{name}.{own}": parameter.numel()
        for name, module in model.named_modules()
        if "expert" in type(module).__name__.lower()
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and len(parameter) > 1 and min(parameter.shape) > 1
    }


def require_adaptable(options: Mapping[str, Any], experts: Sequence[str]) -> None:
    """Raise SpecError if an adapter with these options of a LoraConfig cannot be put on `experts`."""
    found = [word for option, word in IMPOSSIBLE.items() if options.get(option)]
    if (start := options.get("init_lora_weights", True)) not in POSSIBLE_STARTS:
        found.append(f"a start from the weight ({start})")
    if found and experts:
        raise not_on_experts(" or ".join(found), experts)


def not_on_experts(what: str, experts: Sequence[str]) -> SpecError:
    """The error for an arm that cannot adapt its targets because some are experts."""
    return SpecError(
        f"the targets include experts stored as one tensor, such as '{experts[0]}' ({len(experts)} such tensors). "
        f"An adapter on them cannot be combined with {what}. Change that option, or choose targets without experts, "
        "such as targets: attention."
    )


def target_options(model: torch.nn.Module, modules: Sequence[str], experts: Sequence[str]) -> dict[str, Any]:
    """Options of a LoraConfig that adapt exactly these modules and experts.

    In some mixtures peft takes any module called `gate_proj`, for example of a dense layer, for experts of an older
    checkpoint, and adapts the experts in its place. Such a module is named by its weight, which peft leaves alone.
    """
    is_renamed = {ending: _is_renamed(model, ending) for ending in {name.rpartition(".")[2] for name in modules}}
    by_weight = [f"{name}.weight" for name in modules if is_renamed[name.rpartition(".")[2]]]
    named = [name for name in modules if not is_renamed[name.rpartition(".")[2]]]
    parameters = [*by_weight, *experts]
    return {"target_modules": named, **({"target_parameters": parameters} if parameters else {})}


def _is_renamed(model: torch.nn.Module, ending: str) -> bool:
    if rename_targets is None:
        return False
    trial = LoraConfig(target_modules=[ending])
    try:
        rename_targets(trial, model=model, conversions=None)
    except ValueError:  # `gate_proj` without `up_proj`
        return True
    return ending not in trial.target_modules


def linear_in_fp32(model: torch.nn.Module) -> Collection[str]:
    """Names of linear modules whose update is added to the weight: rounded to bf16 it would be lost."""
    return [
        f"{name}.base_layer"
        for name, module in model.named_modules()
        if isinstance(module, ParamWrapper) and isinstance(module.base_layer, LINEAR)
    ]
