"""From a target name (`qkv`, `all-linear`, module names, a regex) to the full names of linear modules and experts."""

import re
from dataclasses import dataclass

import torch

from tunewise.adapter.patterns import NamePattern
from tunewise.errors import SpecError
from tunewise.lab.methods.experts import expert_parameters
from tunewise.lab.models.load import LINEAR, Base
from tunewise.lab.weights.quantized import num_weights
from tunewise.text.suggest import near_miss

KEYWORDS = ("qkv", "attention", "mlp", "all-linear")
ATTENTION_PARTS = {"attn", "attention", "self_attn", "self_attention", "self", "mixer_attn"}
# Parts of a block that are neither softmax attention nor MLP: mixers of hybrid models, and small parts of Gemma 3n.
OTHER_PARTS = {"linear_attn", "mamba", "mixer", "conv", "temporal_block", "altup", "laurel"}
OTHER_PARTS |= {"altup_projections", "altup_unembed_projections", "per_layer_input_gate", "per_layer_projection"}
# Names that tell what a module is where its holder does not: all parts of Nemotron-H are called mixer.
HELD_BY_ATTENTION = {"q_proj", "k_proj", "v_proj"}
MLP_NAMES = {"gate_proj", "up_proj", "down_proj"}
QKV_NAMES = {
    *("q_proj", "k_proj", "v_proj", "qkv_proj"),  # Llama, Qwen, Mistral, Gemma, OPT; Phi-3
    *("c_attn", "query_key_value", "Wqkv", "qkv"),  # GPT-2; GPT-NeoX, Bloom, Falcon; ModernBERT, MPT
    *("query", "key", "value", "query_proj", "key_proj", "value_proj"),  # BERT, RoBERTa; DeBERTa
    *("q_lin", "k_lin", "v_lin"),  # DistilBERT
    *("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),  # latent attention of DeepSeek
}
# Linear modules of a state-space block whose weights its fused kernels read: an adapter would have no effect there.
READ_BY_KERNELS = ("x_proj", "dt_proj", "out_proj")
CLAMPED = ".altup.correction_coefs"  # Gemma 3n clamps the weight and multiplies by it, without calling the module


@dataclass(frozen=True)
class Targets:
    """Linear modules and experts to adapt, and their share of the base."""

    modules: tuple[str, ...]
    experts: tuple[str, ...]  # parameters, each with the weights of several experts
    linear_share: float  # of all weights of the base's body: see `body_parameters`

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.modules, *self.experts)


def resolve_targets(base: Base, targets: str | tuple[str, ...], *, with_experts: bool = False) -> Targets:
    """Full names of what `targets` means. Raises SpecError if one of its names matches nothing.

    `with_experts`: also experts stored as one tensor, which only LoRA can adapt.
    """
    modules = linear_modules(base)
    experts = _of_text(base, expert_parameters(base.model)) if with_experts else {}
    sizes = modules | experts
    if not sizes:
        raise SpecError(f"{type(base.model).__name__} has no linear modules that LoRA could adapt.")
    wanted = (targets,) if isinstance(targets, str) else targets
    chosen: set[str] = set()
    called = sizes.keys() - _never_called(base.model)
    for target in wanted:
        matches = _matches(target, [name for name in sizes if name in called or target not in KEYWORDS])
        if not matches:
            raise SpecError(_no_match(target, list(sizes)))
        chosen.update(matches)
    share = sum(sizes[name] for name in chosen) / body_parameters(base)
    of_modules, of_experts = (tuple(name for name in of if name in chosen) for of in (modules, experts))
    return Targets(of_modules, of_experts, share)


def linear_modules(base: Base) -> dict[str, int]:
    """Full name -> parameters of every Linear or Conv1D module that text passes through, in model order.

    Heads are left out, and so are towers for images and sound: text gives them no gradient.
    """
    return _of_text(base, _all_linear(base))


def body_parameters(base: Base) -> int:
    """Number of all weights of the body, the denominator for a share of the model.

    These are the linear modules and every other matrix or larger tensor: experts stored as one tensor, convolutions,
    image towers. Embeddings, heads, and vectors such as those of norms are not counted.
    """
    heads = tuple(base.head_modules)
    others: dict[int, int] = {}
    for name, module in base.model.named_modules():
        if _is_linear(module) or isinstance(module, torch.nn.Embedding) or _inside(name, heads):
            continue
        others |= {id(p): p.numel() for p in module.parameters(recurse=False) if sum(n > 1 for n in p.shape) > 1}
    return sum(_all_linear(base).values()) + sum(others.values())


def _all_linear(base: Base) -> dict[str, int]:
    heads, output = tuple(base.head_modules), base.model.get_output_embeddings()
    return {
        name: sum(num_weights(p) for p in module.parameters())
        for name, module in base.model.named_modules()
        if _is_linear(module) and module is not output and not _inside(name, heads)
    }


def _is_linear(module: torch.nn.Module) -> bool:
    """True for Linear and Conv1D; some routers derive from Linear, but return more than a product."""
    return isinstance(module, LINEAR) and not type(module).__name__.endswith("Router")


def _of_text(base: Base, sizes: dict[str, int]) -> dict[str, int]:
    reads_text = text_part(base)
    return {name: size for name, size in sizes.items() if not reads_text or _inside(name, (reads_text,))}


def text_part(base: Base) -> str:
    """Name of the module that reads text in a model that also reads images or sound; '' for any other model."""
    config = getattr(base.model, "config", None)
    if config is None or config.get_text_config() is config:
        return ""
    decoder = base.model.get_decoder()
    return next((name for name, module in base.model.named_modules() if module is decoder), "")


def _inside(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def _never_called(model: torch.nn.Module) -> set[str]:
    """Names of linear modules whose weight is used without a call. Keywords leave them out.

    A state-space block (Mamba) is known by its transition `A_log` and its skip `D`.
    """
    modules = dict(model.named_modules())
    blocks = [name for name, module in modules.items() if hasattr(module, "A_log") and hasattr(module, "D")]
    clamped = {name for name in modules if name.endswith(CLAMPED)}
    return clamped | {f"{block}.{own}" for block in blocks for own in READ_BY_KERNELS}


def _matches(target: str, names: list[str]) -> list[str]:
    in_blocks = [n for n in names if any(part.isdigit() for part in n.split("."))]
    holders = {n.rpartition(".")[0] for n in in_blocks if n.rpartition(".")[2] in HELD_BY_ATTENTION}
    attention = [n for n in in_blocks if ATTENTION_PARTS & set(n.split(".")[:-1]) or n.rpartition(".")[0] in holders]
    if target == "all-linear":
        return names
    if target == "attention":
        return attention
    if target == "mlp":
        return [n for n in in_blocks if n not in attention and _is_mlp(n)]
    if target == "qkv":
        return [n for n in attention if n.rpartition(".")[2] in QKV_NAMES]
    if re.fullmatch(r"[\w.]+", target):
        return [n for n in names if n == target or n.endswith("." + target)]
    return NamePattern(target, "targets", max(map(len, names), default=0)).matching(names)


def _is_mlp(name: str) -> bool:
    """True for a module of a block, outside attention, that is part of its MLP."""
    parts = name.split(".")
    return parts[-1] in MLP_NAMES or not OTHER_PARTS & set(parts)


def _no_match(target: str, names: list[str]) -> str:
    endings = sorted({n.rpartition(".")[2] for n in names})
    others = [name for name in (*endings, *KEYWORDS) if name != target]
    return (
        f"targets '{target}' matches no linear module of this model.{near_miss(target, others)} "
        f"Allowed: {', '.join(KEYWORDS)}, module names ({', '.join(endings)}), or a regex over full names such as "
        f"'{names[0]}'."
    )
