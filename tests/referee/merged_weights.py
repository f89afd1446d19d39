"""A LoRA adapter merged into its base by hand, in float64: W + scale B A, with plain matrices from the two files.

python tests/referee/merged_weights.py ADAPTER BASE OUT [RANK]

Writes OUT, a language model without an adapter in float64. scale = alpha / r, or alpha / sqrt(r) for rsLoRA. With RANK
the update of every weight is cut down to that rank by the singular value decomposition of the whole matrix.
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

PREFIX = "base_model.model."


@torch.no_grad()
def merge(adapter: Path, base: str, out: Path, rank: int | None) -> dict[str, float]:
    """What was merged: modules, the scale, and the Frobenius norms of all weights and of all updates."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    factors = {name: tensor.double() for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    weight_square = update_square = 0.0
    modules = [name.split(".lora_A.")[0] for name in factors if ".lora_A." in name]
    for module in modules:
        b, a = (factors.pop(f"{module}.lora_{side}.weight") for side in "BA")
        update = scale * b @ a
        if rank is not None:
            u, s, vh = torch.linalg.svd(update, full_matrices=False)
            update = u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank]
        if config["fan_in_fan_out"]:  # Conv1D of GPT-2 stores d_in x d_out
            update = update.T
        weight = model.get_submodule(module.removeprefix(PREFIX)).weight
        assert weight.dtype == update.dtype == torch.float64
        weight_square += float(weight.square().sum())
        update_square += float(update.square().sum())
        weight += update
    assert not factors, f"the adapter also holds {sorted(factors)}"
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(out)
    return {
        "num_modules": len(modules),
        "scale": scale,
        "weight_norm": math.sqrt(weight_square),
        "update_norm": math.sqrt(update_square),
    }


if __name__ == "__main__":
    adapter, base, out, *rank = sys.argv[1:]
    print(json.dumps(merge(Path(adapter), base, Path(out), int(rank[0]) if rank else None)))
