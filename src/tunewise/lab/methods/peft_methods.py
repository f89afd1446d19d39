"""Methods that peft implements: LoRA, and any other by the name of its type."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, PeftType, TaskType, get_peft_model, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora import LoraLayer
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as IA3_FEEDFORWARD
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from tunewise.errors import SpecError
from tunewise.lab.methods.experts import linear_in_fp32, not_on_experts, require_adaptable, target_options
from tunewise.lab.methods.name_values import require_effective
from tunewise.lab.methods.targets import Targets, resolve_targets
from tunewise.lab.models.load import Base
from tunewise.lab.weights.narrow import as_if_wide
from tunewise.spec import TASKS, LoraMethod, PeftMethod, Task
from tunewise.text.suggest import lookup, near_miss

TASK_TYPES = {"sft": TaskType.CAUSAL_LM, "lm": TaskType.CAUSAL_LM, "classify": TaskType.SEQ_CLS}

# Options that restrict the targets. Ours are full names, for which peft ignores layers_to_transform and its pattern.
SELECTORS = ("exclude_modules", "layers_to_transform", "layers_pattern")

# peft's options for each variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
}
# Initializations that need more than the weights: without it peft refuses, or silently initializes A as usual.
NEED_MORE = {"eva": "activations", "corda": "covariances", "lora_ga": "gradients", "loftq": "a quantized base"}


class _Adapter:
    """Common base of peft methods: the adapter is saved in peft's own format."""

    targets: Targets | None = None
    scale: float | None = None
    fp32_modules: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._start: dict[str, torch.Tensor] = {}  # initial B A, if it was taken from the base

    def adapt(self, base: Base, config: Any) -> PeftModel:
        """The base with the adapters of `config`. Raises SpecError for an initialization that cannot be saved."""
        with as_if_wide(base.model):
            model = get_peft_model(base.model, config)
        takes_over = _takes_over(config)
        if takes_over:
            saved = get_peft_model_state_dict(model)
            self._start = {name: tensor.clone() for name, tensor in saved.items() if ".lora_" in name}
        if takes_over or getattr(config, "use_dora", False):  # the residual weight and its norms need full precision
            self.fp32_modules = tuple(f"{n}.base_layer" for n, m in model.named_modules() if isinstance(m, LoraLayer))
        self.fp32_modules = tuple(dict.fromkeys((*self.fp32_modules, *linear_in_fp32(model))))
        return model

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Do nothing."""

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Empty: there is no state."""
        return {}

    def restore(self, model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        """Do nothing: there is no state."""

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Save a standard peft adapter folder for the untouched base.

        B A that began as B0 A0, taken from the base, is saved as plain LoRA of twice the rank, B A - B0 A0. In peft's
        own format B0 A0 is recomputed on loading, and a randomized SVD (`pissa_niter_4`) gives another result.
        """
        cast(PeftModel, model).save_pretrained(str(folder))
        if self._start:
            _store_as_plain_lora(folder, self._start)


def _takes_over(config: Any) -> bool:
    """True if B A is initialized from the weight and subtracted from the base."""
    return str(getattr(config, "init_lora_weights", "")).startswith(("pissa", "olora"))


def _check_start(config: Any, base: Base) -> None:
    """Raise SpecError for an initialization that cannot start, or cannot be saved and reloaded."""
    start = str(getattr(config, "init_lora_weights", ""))
    if start in NEED_MORE:
        raise SpecError(
            f"init_lora_weights '{start}' needs {NEED_MORE[start]}, which tunewise does not "
            "collect. Use pissa or olora, or remove the option."
        )
    if not _takes_over(config):
        return
    targets = [base.model.get_submodule(name) for name in config.target_modules]
    if start == "olora" and any(isinstance(module, Conv1D) for module in targets):
        raise SpecError(
            "olora confuses rows and columns on the Conv1D modules of this model (GPT-2). Use pissa, "
            "or a model with Linear modules."
        )
    if config.use_dora:
        raise SpecError(
            f"init_lora_weights '{start}' with use_dora cannot be saved for the untouched base. Use only one of them."
        )
    directions = min(min(module.weight.shape) for module in targets)
    if (rank := max([config.r, *config.rank_pattern.values()])) > directions:
        raise SpecError(
            f"{start} is initialized from the weight, and the smallest target has {directions} directions, but got "
            f"rank {rank}. Set a rank of at most {directions}."
        )


def _store_as_plain_lora(folder: Path, start: dict[str, torch.Tensor]) -> None:
    """Rewrite a saved adapter as [B, -B0] [A; A0], which has the same scale."""
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    for name, before in start.items():
        if ".lora_A." in name:
            tensors[name] = torch.cat([tensors[name], before.cpu()], dim=0)
        elif ".lora_B." in name:
            tensors[name] = torch.cat([tensors[name], -before.cpu()], dim=1)
    save_file(tensors, weights, metadata={"format": "pt"})
    config = LoraConfig.from_pretrained(folder)
    growth = math.sqrt(2) if config.use_rslora else 2
    config.init_lora_weights = True
    config.r *= 2
    config.lora_alpha *= growth
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {name: growth * alpha for name, alpha in config.alpha_pattern.items()}
    config.save_pretrained(folder)


class Lora(_Adapter):
    """LoRA on fully named target modules; heads are trained and saved with the adapter."""

    def __init__(self, spec: LoraMethod, task: Task) -> None:
        super().__init__()
        self.spec, self.task, self.scale = spec, task, spec.scale

    def prepare(self, base: Base) -> torch.nn.Module:
        """The base with adapters. Raises SpecError for targets that match nothing, and for olora on GPT-2."""
        self.targets = targets = resolve_targets(base, self.spec.targets, with_experts=True)
        if targets.experts and self.spec.has_open_rank:
            raise not_on_experts("rank: auto, which truncates one product for each module", targets.experts)
        if targets.experts and self.spec.quantized:
            raise not_on_experts(
                f"base: {self.spec.quantized}, which stores linear weights alone in 4 bits", targets.experts
            )
        options = {
            "lora_dropout": self.spec.dropout,
            "fan_in_fan_out": any(isinstance(base.model.get_submodule(name), Conv1D) for name in targets.modules),
            **VARIANTS[self.spec.variant],
        }
        require_adaptable(options, targets.experts)
        config = LoraConfig(
            task_type=TASK_TYPES[self.task],
            r=self.spec.top_rank,
            lora_alpha=self.spec.alpha,
            modules_to_save=list(base.head_modules) or None,
            **options,
            **target_options(base.model, targets.modules, targets.experts),
        )
        _check_start(config, base)
        try:
            model = self.adapt(base, config)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise SpecError(f"peft rejects LoRA with targets {self.spec.targets!r}: {error}") from error
        if self.spec.init_scale != 1:
            _scale_start(model, self.spec.init_scale)
        scales, layers = _scales(model), [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
        assert scales == {self.spec.scale}, f"peft scales by {scales}, the specification says {self.spec.scale}"
        assert len(layers) == len(targets.names), f"peft adapts {len(layers)} of {len(targets.names)} targets"
        return model


def rank_parameters(model: torch.nn.Module) -> int:
    """Parameters that one more rank in every adapted layer would add, d_in + d_out of each; 0 if there is none.

    In a layer of experts every expert has its own factors.
    """
    layers = (layer for layer in model.modules() if isinstance(layer, LoraLayer))
    return sum(getattr(layer, "num_experts", 1) * (layer.in_features + layer.out_features) for layer in layers)


@torch.no_grad()
def _scale_start(model: torch.nn.Module, factor: float) -> None:
    """Multiply the initial A by `factor`. B is 0, so the model's function does not change."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.lora_A["default"].weight.mul_(factor)


def _scales(model: torch.nn.Module) -> set[float]:
    """Factors on B A that the adapted layers actually use."""
    return {layer.scaling["default"] for layer in model.modules() if isinstance(layer, LoraLayer)}


class AnyPeft(_Adapter):
    """Any other peft config, by its type and the options of its config class."""

    def __init__(self, spec: PeftMethod, task: Task, num_steps: int) -> None:
        super().__init__()
        self.spec, self.task, self.num_steps = spec, task, num_steps

    def prepare(self, base: Base) -> torch.nn.Module:
        """The base with the method's modules. Raises SpecError for options that peft rejects."""
        config = self._config(base)
        if config.is_prompt_learning and TASKS[self.task].has_classes:
            raise SpecError(
                f"peft {self.spec.type} puts virtual tokens before the text, so a classification head would read "
                "the wrong position. Choose another type, or method 'lora'."
            )
        _check_start(config, base)
        try:
            model = self.adapt(base, config)
        except (ValueError, TypeError, NotImplementedError, ImportError) as error:
            raise SpecError(f"peft rejects {self.spec.type} with {self.spec.options}: {error}") from error
        if self.spec.type.upper() == PeftType.LORA.value:
            scales = _scales(model)
            self.scale = scales.pop() if len(scales) == 1 else None  # rank_pattern and alpha_pattern give several
        return model

    def defaults(self) -> dict[str, Any]:
        """Options that differ from peft's defaults unless the study sets them."""
        return {}

    def _resolved(self, base: Base, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options that name the targets in full."""
        is_lora = self.spec.type.upper() == PeftType.LORA.value
        wanted = options.get("target_modules", () if options.get("target_parameters") else "all-linear")
        wanted = (wanted,) if isinstance(wanted, str) else tuple(wanted)
        every = (*wanted, *(options.get("target_parameters") or ()))
        self.targets = resolve_targets(base, every, with_experts=is_lora)
        require_adaptable(options, self.targets.experts)
        if not is_lora:
            return {"target_modules": list(self.targets.modules)}
        return target_options(base.model, self.targets.modules, self.targets.experts)

    def _config(self, base: Base) -> Any:
        known = {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        config_class = lookup(known, self.spec.type.upper(), "peft type")
        options = {**self.defaults(), **self.spec.options}
        fields = config_class.__dataclass_fields__
        for name in options:
            if name not in fields:
                raise SpecError(f"peft {self.spec.type} has no option '{name}'.{near_miss(name, fields)}")
            if name in SELECTORS:
                raise SpecError(f"peft option '{name}': use target_modules instead, with names or a regex.")
        if "target_modules" in fields:
            options |= self._resolved(base, options)
            require_effective(options, (*options["target_modules"], *options.get("target_parameters", ())))
        if "feedforward_modules" in fields:  # IA3: those of the targets whose input is scaled, not their output
            adapted, named = options["target_modules"], options.get("feedforward_modules")
            usual = tuple(f".{end}" for end in IA3_FEEDFORWARD.get(base.model.config.model_type, ()))
            feedforward = resolve_targets(base, named).names if named else [n for n in adapted if n.endswith(usual)]
            options["feedforward_modules"] = [name for name in feedforward if name in adapted]
        if "modules_to_save" in fields and base.head_modules:
            options.setdefault("modules_to_save", list(base.head_modules))
        try:
            return config_class(task_type=TASK_TYPES[self.task], **options)
        except (ValueError, TypeError, ImportError) as error:
            raise SpecError(f"peft rejects {self.spec.type} with {self.spec.options}: {error}") from error
