"""Trainable parameters of a tuned model, by arithmetic on the shapes of files: no model is built.

python tests/referee/trainable_parameters.py MODEL BASE

MODEL is a folder of weights (everything learned) or a LoRA adapter of BASE: every adapted matrix of d_in x d_out has
rank x (d_in + d_out) parameters, and each weight of a saved head learns.
"""

import json
import sys
from math import prod
from pathlib import Path

from safetensors import safe_open


def shapes(path: Path) -> dict[str, list[int]]:
    """Tensor name -> shape; tied weights are in a file once."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping


def weight_shape(of_base: dict[str, list[int]], module: str) -> list[int]:
    """The shape of a module's weight; a file may lack the model's own prefix, `transformer.` or `bert.`."""
    name = f"{module.removeprefix('base_model.model.')}.weight"
    return of_base[name] if name in of_base else of_base[name.partition(".")[2]]


def count(model: Path, base: Path) -> dict[str, int]:
    """`trainable` from rank and shapes, and the parameters that the saved file really holds."""
    if not (model / "adapter_config.json").exists():
        trainable = sum(map(prod, shapes(model / "model.safetensors").values()))
        return {"trainable": trainable, "in_the_file": trainable}
    config = json.loads((model / "adapter_config.json").read_text())
    saved = shapes(model / "adapter_model.safetensors")
    of_base = shapes(base / "model.safetensors")
    modules = [name.split(".lora_A.")[0] for name in saved if ".lora_A." in name]
    adapters = sum(config["r"] * sum(weight_shape(of_base, module)) for module in modules)
    heads = sum(prod(shape) for name, shape in saved.items() if ".lora_" not in name)
    return {"trainable": adapters + heads, "in_the_file": sum(map(prod, saved.values()))}


if __name__ == "__main__":
    print(json.dumps(count(*map(Path, sys.argv[1:]))))
