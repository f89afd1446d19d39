"""Methods that peft implements: LoRA, and any other by the name of its type."""

from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, PeftType, TaskType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora import LoraLayer
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as IA3_FEEDFORWARD
from transformers.pytorch_utils import Conv1D

from tunewise.errors import SpecError
from tunewise.lab.methods.targets import Targets, resolve_targets
from tunewise.lab.models import Base
from tunewise.registry import lookup, near_miss
from tunewise.spec import LoraMethod, PeftMethod, Task

TASK_TYPES = {"sft": TaskType.CAUSAL_LM, "lm": TaskType.CAUSAL_LM, "classify": TaskType.SEQ_CLS}

# Options that narrow the targets down. Ours are full names, of which peft ignores layers_to_transform and its pattern.
SELECTORS = ("exclude_modules", "layers_to_transform", "layers_pattern")


class _Adapter:
    """What all peft methods share: the adapter is saved in peft's own format."""

    targets: Targets | None = None
    scale: float | None = None

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """AdaLoRA re-allocates its ranks after every step; other methods have nothing to do."""
        inner = cast(PeftModel, model).base_model
        if hasattr(inner, "update_and_allocate"):
            inner.update_and_allocate(step)

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """A standard peft adapter folder."""
        cast(PeftModel, model).save_pretrained(str(folder))


class Lora(_Adapter):
    """LoRA on fully named target modules; heads are trained and saved beside it."""

    def __init__(self, spec: LoraMethod, task: Task) -> None:
        self.spec, self.task, self.scale = spec, task, spec.scale

    def prepare(self, base: Base) -> torch.nn.Module:
        """The base with adapters. Raises SpecError for targets that match nothing."""
        self.targets = resolve_targets(base, self.spec.targets)
        names = self.targets.names
        config = LoraConfig(
            task_type=TASK_TYPES[self.task],
            r=self.spec.rank,
            lora_alpha=self.spec.alpha,
            lora_dropout=self.spec.dropout,
            use_rslora=self.spec.variant == "rslora",
            target_modules=list(names),
            fan_in_fan_out=isinstance(base.model.get_submodule(names[0]), Conv1D),
            modules_to_save=list(base.head_modules) or None,
        )
        model = get_peft_model(base.model, config)
        scales = _scales(model)
        assert scales == {self.spec.scale}, f"peft scales by {scales}, the spec says {self.spec.scale}"
        return model


def _scales(model: torch.nn.Module) -> set[float]:
    """The factors on B A that the adapted layers really use."""
    return {layer.scaling["default"] for layer in model.modules() if isinstance(layer, LoraLayer)}


class AnyPeft(_Adapter):
    """Any other peft config, by its type and the options of its config class."""

    def __init__(self, spec: PeftMethod, task: Task, num_steps: int) -> None:
        self.spec, self.task, self.num_steps = spec, task, num_steps

    def prepare(self, base: Base) -> torch.nn.Module:
        """The base with the method's modules. Raises SpecError for what peft refuses."""
        config = self._config(base)
        if config.is_prompt_learning and self.task == "classify":
            raise SpecError(
                f"peft {self.spec.type} puts virtual tokens before the text, so that a classification head would read "
                "the wrong place. Choose another type, or method 'lora'."
            )
        try:
            model = get_peft_model(base.model, config)
        except (ValueError, TypeError, NotImplementedError, ImportError) as error:
            raise SpecError(f"peft refuses {self.spec.type} with {self.spec.options}: {error}") from error
        if self.spec.type.upper() == PeftType.LORA.value:
            scales = _scales(model)
            self.scale = scales.pop() if len(scales) == 1 else None  # rank_pattern and alpha_pattern give several
        return model

    def _config(self, base: Base) -> Any:
        known = {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        config_class = lookup(known, self.spec.type.upper(), "peft type")
        options = dict(self.spec.options)
        fields = config_class.__dataclass_fields__
        for name in options:
            if name not in fields:
                raise SpecError(f"peft {self.spec.type} has no option '{name}'.{near_miss(name, fields)}")
            if name in SELECTORS:
                raise SpecError(f"peft option '{name}': say it with target_modules, which may be names or a regex.")
        if "target_modules" in fields:
            self.targets = resolve_targets(base, options.get("target_modules", "all-linear"))
            options["target_modules"] = list(self.targets.names)
        if "feedforward_modules" in fields:  # IA3: those of the targets whose input is scaled, not their output
            named = options.get("feedforward_modules") or IA3_FEEDFORWARD.get(base.model.config.model_type, ())
            feedforward = resolve_targets(base, named).names if named else ()
            options["feedforward_modules"] = [name for name in feedforward if name in options["target_modules"]]
        if "modules_to_save" in fields and base.head_modules:
            options.setdefault("modules_to_save", list(base.head_modules))
        if self.spec.type.upper() == PeftType.ADALORA.value:
            options.setdefault("total_step", self.num_steps)
        try:
            return config_class(task_type=TASK_TYPES[self.task], **options)
        except (ValueError, TypeError) as error:
            raise SpecError(f"peft refuses {self.spec.type} with {self.spec.options}: {error}") from error
