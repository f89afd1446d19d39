"""Precision policy: trained weights are fp32 in every arm, and every arm computes the same function at step 0.

Every arm loads the base in fp32. In mixed precision only *frozen* weights of Linear / Conv1D modules are stored in
bf16; the same autocast runs in every arm and rounds the fp32 weights of the full arm to the same bf16 values.
"""

from collections.abc import Collection

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from tunewise.lab.models.load import LINEAR, inner_model
from tunewise.lab.private import has_fast_bf16_on_cpu
from tunewise.spec import Device, Precision


def pick_precision(device: Device) -> Precision:
    """bf16 if the machine multiplies it fast, else fp32."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device == "cpu":
        return "bf16" if has_fast_bf16_on_cpu() else "fp32"
    return "fp32"


def store_frozen_weights(model: torch.nn.Module, precision: Precision, fp32_modules: Collection[str] = ()) -> None:
    """Store frozen linear weights in bf16, except those tied to an embedding and those of `fp32_modules` (names).

    A head that is tied to the embedding gets a copy. Does nothing in fp32.
    """
    if precision == "fp32":
        return
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    _copy_tied_head(model, embeddings)
    kept = embeddings | {id(model.get_submodule(name).weight) for name in fp32_modules}
    linear = [module for module in model.modules() if isinstance(module, LINEAR)]
    frozen = [m for m in linear if m.weight.dtype == torch.float32 and not m.weight.requires_grad]
    stored = [module for module in frozen if id(module.weight) not in kept]
    for module in stored:
        module.weight.data = module.weight.data.to(torch.bfloat16)
    if stored:
        _leave_the_file(model)


def _leave_the_file(model: torch.nn.Module) -> None:
    """Copy what is still fp32, to release the weights' memory map, which one tensor would keep as a whole."""
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.dtype == torch.float32:
            parameter.data = parameter.data.clone()


def leave_inputs_as_they_are(model: torch.nn.Module, precision: Precision) -> None:
    """Let adapters take inputs in bf16: peft would cast them to its fp32, and autocast back to the same bf16."""
    if precision == "fp32":
        return
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False


def _copy_tied_head(model: torch.nn.Module, embeddings: Collection[int]) -> None:
    """Store the bf16 copy that autocast would otherwise make in every step: it caches casts only of trained weights.

    The copy is a buffer that is not saved, so that the weights remain those of the embedding when counted or stored.
    """
    head = inner_model(model).get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.requires_grad or id(head.weight) not in embeddings:
        return
    copy = head.weight.data.to(torch.bfloat16)
    del head.weight
    head.register_buffer("weight", copy, persistent=False)


def assert_masters(model: torch.nn.Module) -> None:
    """Assert that trained weights are fp32."""
    wrong = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
    assert not wrong, f"these are trained but are not fp32: {wrong[:3]}"
