"""Forgetting of a tuned model by plain transformers and peft in float64, one window of general text at a time.

python tests/referee/forgetting.py MODEL BASE WINDOWS.parquet

WINDOWS has the columns `input_ids` and `supervised`: every supervised token is predicted from those before it.
"""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def load(folder: str, base: str) -> torch.nn.Module:
    """The model in float64."""
    is_adapter = (Path(folder) / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(base if is_adapter else folder, dtype=torch.float64)
    if is_adapter:
        model = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).double()
    return model.eval()


@torch.no_grad()
def mean_nll(model: torch.nn.Module, windows: list[dict[str, list[int]]]) -> float:
    """Sum of NLL / number of supervised tokens."""
    nll, num_tokens = 0.0, 0
    for window in windows:
        log_probabilities = model(input_ids=torch.tensor([window["input_ids"]])).logits[0].log_softmax(-1)
        assert log_probabilities.dtype == torch.float64
        for place, token in enumerate(window["input_ids"]):
            if window["supervised"][place]:
                nll -= float(log_probabilities[place - 1, token])
                num_tokens += 1
    return nll / num_tokens


if __name__ == "__main__":
    folder, base, path = sys.argv[1:]
    windows = pq.read_table(path, columns=["input_ids", "supervised"]).to_pylist()
    before, after = mean_nll(load(base, base), windows), mean_nll(load(folder, base), windows)
    print(json.dumps({"base_nll": before, "tuned_nll": after, "forgetting": after - before}))
