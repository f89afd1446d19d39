"""Private names of torch, transformers and sacrebleu that the package uses, and functions that it replaces.

Such names can change with any version, so nothing else in the package may use one (`tests/test_layers.py`). Each has
its reason. All were tested on torch 2.13.0, transformers 5.6, 5.23.0 and 5.24.0, peft 0.18 and 0.21.2, sacrebleu 2.4
and 2.6.0; no other torch was tested. No private name of peft is used.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

# Shapes of results; torch limits those of grouped products to its kernel on CUDA, see `grouped_products_in_fp32`.
from torch import _meta_registrations

# Tensors with shapes and without storage, on which a plan traces a step; torch has no public name for them.
from torch._subclasses.fake_tensor import FakeTensorMode

# Sees every operation of a step. Documented as a way to extend torch, but still private.
from torch.utils._python_dispatch import TorchDispatchMode

# The tensors in any argument or result of an operation.
from torch.utils._pytree import tree_iter
from transformers import PreTrainedConfig, masking_utils

__all__ = ["FakeTensorMode", "TorchDispatchMode", "tree_iter"]

aten = torch.ops.aten
# torch's own lists name the operators; those that begin with an underscore are what a step dispatches.
FLASH_ATTENTION_ON_CPU = aten._scaled_dot_product_flash_attention_for_cpu
FLASH_ATTENTION_ON_CPU_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward
GROUPED_PRODUCT = aten._grouped_mm
NORM_OF_ALL, SCALE_ALL = aten._foreach_norm.Scalar, aten._foreach_mul_.Tensor
TO_COPY = aten._to_copy.default


def overloads_of(operator: Any) -> Any:
    """The operator of this overload, as the table of FLOPs names it."""
    return operator._overloadpacket


def address_of(storage: torch.UntypedStorage) -> int:
    """Identity of a live storage; `data_ptr` is 0 for all those without memory."""
    return int(storage._cdata)


def has_fast_bf16_on_cpu() -> bool:
    """True if this processor multiplies bf16 in hardware; public functions only say whether it can be computed."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def tensors_of(module: torch.nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """A module's own parameters and buffers, to be replaced there: `setattr` would register a tied one anew."""
    return module._parameters, module._buffers


def attention_of(config: PreTrainedConfig) -> Any:
    """Name of the attention in use; transformers has only a public setter (`set_attn_implementation`)."""
    return config._attn_implementation


def mark_as_not_drawn(parameter: torch.nn.Parameter) -> None:
    """Let transformers initialize the tensor again: it skips those marked as initialized or loaded."""
    parameter._is_hf_initialized = False


def draw_weights(model: Any, layer: torch.nn.Module) -> None:
    """Initialize the weights of one layer as its model does; the public functions initialize all of a model's."""
    model._init_weights(layer)


def renamed_in_checkpoints(model: Any) -> dict[str, str]:
    """Patterns of names in older checkpoints -> names in the model, which transformers applies while loading."""
    renamed: dict[str, str] = getattr(model, "_checkpoint_conversion_mapping", {})
    return renamed


def has_own_generation_file(generation: Any) -> bool:
    """True if a generation configuration comes from its own file; otherwise it repeats the model's config.json."""
    return not getattr(generation, "_from_model_config", True)


def commit_of(config: PreTrainedConfig) -> str | None:
    """Commit of a model from the hub; None if it is a folder."""
    commit: str | None = getattr(config, "_commit_hash", None)
    return commit


def chrf_sums(scorer: Any, written: str, references: Sequence[str]) -> list[float]:
    """Statistics that sacrebleu's corpus chrF sums, for one text and its references (one or more)."""
    return [float(n) for n in scorer._extract_corpus_statistics([written], [[one] for one in references])[0]]


@contextmanager
def replaced(module: ModuleType, name: str, stand_in: Any) -> Iterator[None]:
    """Inside the block, `module.name` is `stand_in`, for all threads of the process."""
    before = getattr(module, name)
    setattr(module, name, stand_in)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def one_text_a_row() -> Iterator[None]:
    """Inside the block, transformers does not check whether several texts share a row.

    Without a mask, a model checks its positions. If they have no values, transformers assumes one text. Our rows hold
    one text, or carry an explicit mask.
    """
    with replaced(masking_utils, "find_packed_sequence_indices", lambda position_ids: None):
        yield


@contextmanager
def grouped_products_in_fp32() -> Iterator[None]:
    """Inside the block, a product of rows by the weights of their experts may be traced in any type.

    torch asks for bf16, as its kernel on CUDA does, but its kernel on CPU multiplies fp32 as well.
    """

    def shape_alone(rows: Any, weights: Any, *_: Any, offs: Any = None, out_dtype: Any = None, **__: Any) -> Any:
        return _meta_registrations._create_grouped_mm_output_tensor(rows, weights, offs, out_dtype)

    with replaced(_meta_registrations, "_meta_grouped_mm_common", shape_alone):
        yield
