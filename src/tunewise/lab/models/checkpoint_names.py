"""Check that a load is complete by comparing names: every tensor of a checkpoint has a place, and every place a tensor.

transformers fills missing tensors with random numbers, ignores tensors without a place, and replaces those of another
shape; it reports this only in a log.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

from tunewise.errors import ModelError

PAIRED = "Use the config.json that belongs to these weights, or download the folder again."


@dataclass(frozen=True)
class Names:
    """Results of a load: tensors by name in the model, or in the checkpoint if the model has no place for them."""

    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: Mapping[str, tuple[list[int], list[int]]]  # name -> shape in the checkpoint, shape in the model

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Names":
        """From the result of `from_pretrained(..., output_loading_info=True)`."""
        # older versions of transformers give only the names
        found = [item if isinstance(item, tuple) else (item, (), ()) for item in info["mismatched_keys"]]
        mismatched = {str(key): (list(stored), list(wanted)) for key, stored, wanted in found}
        return cls(frozenset(info["missing_keys"]), frozenset(info["unexpected_keys"]), mismatched)

    @property
    def new(self) -> tuple[str, ...]:
        """Tensors that the checkpoint did not provide."""
        return tuple(sorted({*self.missing, *self.mismatched}))


def require_whole(name: str, names: Names, model: PreTrainedModel) -> None:
    """Raise ModelError unless the checkpoint gave every tensor of the model, and no others."""
    if names.missing:
        first = min(names.missing)
        hint = f" It contains {min(names.unexpected)}, for which the model has no place." if names.unexpected else ""
        raise ModelError(
            f"the weights of model '{name}' lack {len(names.missing)} tensors, such as {first}.{hint} "
            "Complete the folder."
        )
    _require_same_shapes(name, names.mismatched)
    _require_places(name, names, model)


def require_whole_body(name: str, names: Names, model: PreTrainedModel) -> None:
    """The same for a classification, whose head (and parts that only classification uses) may be new."""
    inside = {key for key in names.missing if key.startswith(f"{model.base_model_prefix}.")}
    if lost := sorted(inside & _pretrained_names(model.config, {key for key, _ in model.named_parameters()})):
        raise ModelError(
            f"the weights of model '{name}' lack {len(lost)} tensors of the model's body, such as {lost[0]}, which "
            "would be random. Complete the folder."
        )
    others = {
        key: (stored, wanted)
        for key, (stored, wanted) in names.mismatched.items()
        if key.startswith(f"{model.base_model_prefix}.") or stored[1:] != wanted[1:]
    }
    _require_same_shapes(name, others)
    _require_places(name, names, model)


def unused_parts(name: str, names: Names) -> tuple[str, ...]:
    """A remark on parts of the checkpoint that the model does not have."""
    if not names.unexpected:
        return ()
    parts = sorted({key.partition(".")[0] for key in names.unexpected})
    return (
        f"The weights of model '{name}' contain {len(names.unexpected)} tensors that a text "
        f"model does not use, such as {min(names.unexpected)} (parts: {', '.join(parts)[:100]}).",
    )


def _pretrained_names(config: PreTrainedConfig, of_model: set[str]) -> set[str]:
    """Names of parameters that a pretraining checkpoint has; all of them if this family's are not known."""
    for mapping in (MODEL_FOR_MASKED_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        if type(config) in mapping:
            with torch.device("meta"):
                pretrained = mapping[type(config)](type(config).from_dict(config.to_dict()))
            found = {key for key, _ in pretrained.named_parameters()}
            return found if found & of_model else of_model
    return of_model


def _require_same_shapes(name: str, mismatched: Mapping[str, tuple[list[int], list[int]]]) -> None:
    if not mismatched:
        return
    what = "1 tensor" if len(mismatched) == 1 else f"{len(mismatched)} tensors"
    lines = [f"{key} is {stored}, not {wanted}" for key, (stored, wanted) in sorted(mismatched.items())]
    more = f", and {len(lines) - 3} more" if len(lines) > 3 else ""
    raise ModelError(
        f"{what} of model '{name}' {'has' if len(lines) == 1 else 'have'} a shape that differs from its config.json: "
        f"{'; '.join(lines[:3])}{more}. {PAIRED}"
    )


def _require_places(name: str, names: Names, model: PreTrainedModel) -> None:
    if misplaced := sorted(key for key in names.unexpected if _belongs_into(model, key)):
        raise ModelError(
            f"the weights of model '{name}' contain tensors that the model has no place for, such as {misplaced[0]} "
            f"(in all: {len(misplaced)}). Without them it would compute something else. {PAIRED}"
        )


def _belongs_into(model: PreTrainedModel, key: str) -> bool:
    """True for a tensor without a place that belongs to an existing part: a bias of a layer, or one more layer.

    Whole parts that this model lacks (a value head, a vision tower, the head of another task) change nothing. Neither
    do tables that the code computes: frequencies, and the causal masks of old GPT-2 files (`h.0.attn.bias`).
    """
    if key.endswith("inv_freq"):
        return False
    body = model.base_model_prefix
    return any(_is_part(model, name, 1 if name.startswith(f"{body}.") else 0) for name in (key, f"{body}.{key}"))


def _is_part(model: torch.nn.Module, key: str, outer: int) -> bool:
    """True if the name leads more than `outer` modules deep, and there to a new module, or into one with weights."""
    parts = key.split(".")[:-1]
    depth = 0
    while depth < len(parts) and (inner := dict(model.named_children()).get(parts[depth])) is not None:
        model, depth = inner, depth + 1
    return depth > outer and (depth < len(parts) or any(True for _ in model.parameters(recurse=False)))
