"""Tensors in a safetensors file whose name contains its hash, written one tensor at a time.

The library's own writer keeps everything in host memory at once, which for the optimizer of a model on a GPU is twice
its weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from tunewise.storage.disk import Take, write_hashed

SUFFIX = ".safetensors"
CODES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(folder: Path, stem: str, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Path of `folder/<stem>-<SHA-256>.safetensors`, for `safetensors`. Raises StudyError if the disk refuses."""
    return write_hashed(folder, stem, SUFFIX, lambda take: _write(tensors, take))


def _write(tensors: Mapping[str, torch.Tensor], take: Take) -> None:
    # descending element sizes, so that every tensor is aligned to its own
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    take(len(text).to_bytes(8, "little"))
    take(text)
    for name in names:
        take(memoryview(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))


def bytes_as_tensor(content: bytes) -> torch.Tensor:
    """U8[len]: any bytes, to be stored with tensors."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
