"""Where the package reaches into torch, transformers and sacrebleu: private names, and functions replaced in place.

Such names can change with any version, so nothing else in the package may use one (`tests/test_layers.py`). Each says
why it is needed. All were tried, by the tests that use them, on torch 2.13.0, transformers 5.6, 5.23.0 and 5.24.0, peft
0.18 and 0.21.2, sacrebleu 2.4 and 2.6.0; no other torch was tried. No private name of peft is used.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

# Tensors with shapes and without storage, on which a plan follows a step; torch has no public name for them.
from torch._subclasses.fake_tensor import FakeTensorMode

# What sees every operation of a step. Documented as a way to extend torch, and private all the same.
from torch.utils._python_dispatch import TorchDispatchMode

# The tensors in whatever an operation takes and returns.
from torch.utils._pytree import tree_iter
from transformers import PreTrainedConfig, masking_utils

__all__ = ["FakeTensorMode", "TorchDispatchMode", "tree_iter"]

aten = torch.ops.aten
# Operators are named by torch's own lists; those that begin with an underscore are what a step really dispatches.
FLASH_ATTENTION_ON_CPU = aten._scaled_dot_product_flash_attention_for_cpu
FLASH_ATTENTION_ON_CPU_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward
NORM_OF_ALL, SCALE_ALL = aten._foreach_norm.Scalar, aten._foreach_mul_.Tensor
TO_COPY = aten._to_copy.default


def overloads_of(operator: Any) -> Any:
    """The operator of which this is one overload, as the table of FLOPs names it."""
    return operator._overloadpacket


def address_of(storage: torch.UntypedStorage) -> int:
    """What tells a storage from any other that is alive; `data_ptr` is 0 for all those without memory."""
    return int(storage._cdata)


def has_fast_bf16_on_cpu() -> bool:
    """Whether this processor multiplies bf16 itself; the public functions only say whether it can be computed."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def tensors_of(module: torch.nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """A module's own parameters and buffers, to be replaced there: `setattr` would register a tied one anew."""
    return module._parameters, module._buffers


def attention_of(config: PreTrainedConfig) -> Any:
    """The name of the attention in use, of which transformers has a setter alone (`set_attn_implementation`)."""
    return config._attn_implementation


def mark_as_not_drawn(parameter: torch.nn.Parameter) -> None:
    """Let transformers draw it anew: it leaves alone what it has marked as drawn or loaded."""
    parameter._is_hf_initialized = False


def draw_weights(model: Any, layer: torch.nn.Module) -> None:
    """Draw the weights of one layer as its model does; the public functions draw all of a model's."""
    model._init_weights(layer)


def renamed_in_checkpoints(model: Any) -> dict[str, str]:
    """Patterns of names in older checkpoints -> names in the model, which transformers applies while it loads."""
    renamed: dict[str, str] = getattr(model, "_checkpoint_conversion_mapping", {})
    return renamed


def has_own_generation_file(generation: Any) -> bool:
    """Whether a generation configuration was read from a file of its own; else it repeats the model's config.json."""
    return not getattr(generation, "_from_model_config", True)


def commit_of(config: PreTrainedConfig) -> str | None:
    """The commit of a model from the hub; None: it is a folder."""
    commit: str | None = getattr(config, "_commit_hash", None)
    return commit


def chrf_sums(scorer: Any, written: str, references: Sequence[str]) -> list[float]:
    """What sacrebleu's corpus score of chrF sums, for one text and its references, one or more."""
    return [float(n) for n in scorer._extract_corpus_statistics([written], [[one] for one in references])[0]]


@contextmanager
def replaced(module: ModuleType, name: str, stand_in: Any) -> Iterator[None]:
    """Inside, whoever asks `module` for `name` gets `stand_in`; this holds for all threads of the process."""
    before = getattr(module, name)
    setattr(module, name, stand_in)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def one_text_a_row() -> Iterator[None]:
    """Inside, transformers does not look whether several texts share a row.

    A model that is given no mask asks its positions. Where they have no values, transformers takes it for granted. Our
    rows hold one text, or carry an explicit mask.
    """
    with replaced(masking_utils, "find_packed_sequence_indices", lambda position_ids: None):
        yield
