"""What a model must do before anything is trained: know every token of the data, and compute finite numbers."""

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

TRIED_TOKENS = 32  # of the first example, which is read once


def require_usable(name: str, model: torch.nn.Module, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ModelError for a model that lacks a token of the prepared data in `folder`, or gives no finite numbers."""
    _require_known_ids(name, model, folder, tokenizer)
    _require_finite(name, model, folder)


def _require_known_ids(name: str, model: torch.nn.Module, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    size = inner_model(model).get_input_embeddings().weight.shape[0]
    for split in (*SPLITS, "general"):
        path = folder / f"{split}.parquet"
        if not path.is_file():
            continue
        table = pq.ParquetFile(path).read(columns=["example", "input_ids"])
        highest = pc.max(pc.list_flatten(table["input_ids"])).as_py()
        if highest is None or highest < size:
            continue
        place = next(row for row, ids in enumerate(table["input_ids"]) if highest in ids.as_py())
        token = tokenizer.convert_ids_to_tokens(highest)
        raise ModelError(
            f"{table['example'][place].as_py()} holds the token {token!r} with the id {highest:,}, but model '{name}' "
            f"has embeddings for {size:,} tokens, ids 0 to {size - 1:,}. Its tokenizer was given tokens that the model "
            "was not. Take the tokenizer that belongs to the model, or give the model embeddings for all of them: "
            "`model.resize_token_embeddings(len(tokenizer))`, then save both into one folder."
        )


def _require_finite(name: str, model: torch.nn.Module, folder: Path) -> None:
    bad = [key for key, tensor in model.named_parameters() if not _is_finite(tensor)]
    if bad:
        num = sum(1 for _ in model.named_parameters())
        raise ModelError(
            f"model '{name}' holds numbers that are not finite (NaN or infinity) in {len(bad)} of {num} tensors, such "
            f"as {bad[0]}, so it has no finite loss and nothing can be trained from it. Download it again, or take "
            "another checkpoint."
        )
    rows = next(pq.ParquetFile(folder / "train.parquet").iter_batches(1, columns=["example", "input_ids"])).to_pylist()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([rows[0]["input_ids"][:TRIED_TOKENS]])).logits
    if not _is_finite(logits):
        raise ModelError(
            f"model '{name}' gives numbers that are not finite (NaN or infinity) for {rows[0]['example']}, although "
            "all its weights are finite, so nothing can be trained from it. Download it again, or take another "
            "checkpoint."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.numel():
        return True
    least, most = torch.aminmax(tensor.detach())
    return bool(least.isfinite() and most.isfinite())


def unnamed_classes(path: str, labels: tuple[str, ...]) -> list[str]:
    """A remark for an adapter that does not name its classes: by what order they are taken."""
    folder = Path(path)
    if not labels or not (folder / ADAPTER_CONFIG).is_file() or names_beside(folder) is not None:
        return []
    return [
        f"The adapter in {path} does not name its classes, so they are taken in this order: {', '.join(labels)[:200]}. "
        "If it was trained with another order, put a config.json with its id2label into its folder."
    ]


@contextmanager
def enough_memory(name: str) -> Iterator[None]:
    """Raises ModelError where the machine has no memory for the model in fp32."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"this machine has not enough memory to load model '{name}' in fp32. Take a smaller model, or a machine "
            "with more memory; `tunewise plan` tells how much each arm needs."
        ) from error
