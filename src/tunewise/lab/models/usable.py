"""Checks of a model before training: it knows every token of the data, and computes finite numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerBase

from tunewise.adapter.config import CONFIG as ADAPTER_CONFIG
from tunewise.errors import ModelError
from tunewise.lab.data.splits import SPLITS
from tunewise.lab.models.class_order import names_beside
from tunewise.lab.models.load import inner_model
from tunewise.lab.train.memory import is_out_of_memory

READ_TOGETHER = 5_000  # rows of a file
TRIED_TOKENS = 32  # of the first example, which is read once


def require_usable(name: str, model: torch.nn.Module, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError for a model that lacks a token of the data in `folder`, or gives numbers that are not finite."""
    _require_known_ids(name, model, folder, tokenizer)
    _require_finite(name, model, folder)


def _require_known_ids(name: str, model: torch.nn.Module, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    size = inner_model(model).get_input_embeddings().weight.shape[0]
    for split in (*SPLITS, "general"):
        path = folder / f"{split}.parquet"
        if not path.is_file():
            continue
        found = _unknown_id(path, size)
        if found is None:
            continue
        example, number = found
        token = tokenizer.convert_ids_to_tokens(number)
        raise ModelError(
            f"{example} contains the token {token!r} with the id {number:,}, but model '{name}' "
            f"has embeddings for {size:,} tokens, ids 0 to {size - 1:,}. Its tokenizer has tokens that the model "
            "lacks. Use the model's own tokenizer, or add embeddings to the model: "
            "`model.resize_token_embeddings(len(tokenizer))`, then save both into one folder."
        )


def _unknown_id(path: Path, size: int) -> tuple[str, int] | None:
    """The highest id that is `size` or more, and the first example that contains it."""
    found: tuple[str, int] | None = None
    with pq.ParquetFile(path) as file:
        for part in file.iter_batches(READ_TOGETHER, columns=["example", "input_ids"]):
            ids = part["input_ids"]
            highest = pc.max(pc.list_flatten(ids)).as_py()
            if highest is not None and highest >= (found[1] + 1 if found else size):
                place = next(row for row, of_row in enumerate(ids) if highest in of_row.as_py())
                found = part["example"][place].as_py(), highest
    return found


def _require_finite(name: str, model: torch.nn.Module, folder: Path) -> None:
    bad = [key for key, tensor in model.named_parameters() if not _is_finite(tensor)]
    if bad:
        num = sum(1 for _ in model.named_parameters())
        raise ModelError(
            f"model '{name}' contains numbers that are not finite (NaN or infinity) in {len(bad)} "
            f"of {num} tensors, such "
            f"as {bad[0]}, so it has no finite loss and cannot be trained. Download it again, or use "
            "another checkpoint."
        )
    rows = next(pq.ParquetFile(folder / "train.parquet").iter_batches(1, columns=["example", "input_ids"])).to_pylist()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([rows[0]["input_ids"][:TRIED_TOKENS]])).logits
    if not _is_finite(logits):
        raise ModelError(
            f"model '{name}' computes numbers that are not finite (NaN or infinity) for {rows[0]['example']}, although "
            "all its weights are finite, so it cannot be trained. Download it again, or use another "
            "checkpoint."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.numel():
        return True
    least, most = torch.aminmax(tensor.detach())
    return bool(least.isfinite() and most.isfinite())


def unnamed_classes(path: str, labels: tuple[str, ...]) -> list[str]:
    """A remark for an adapter that does not name its classes: the order that is assumed."""
    folder = Path(path)
    if not labels or not (folder / ADAPTER_CONFIG).is_file() or names_beside(folder) is not None:
        return []
    return [
        f"The adapter in {path} does not name its classes, so this order is assumed: {', '.join(labels)[:200]}. "
        "If it was trained with another order, put a config.json with its id2label into its folder."
    ]


@contextmanager
def enough_memory(name: str) -> Iterator[None]:
    """Raise ModelError if the machine lacks memory for the model in fp32."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"this machine does not have enough memory to load model '{name}' in fp32. Use a "
            "smaller model, or a machine with more memory. `tunewise plan` estimates the memory of each arm."
        ) from error
