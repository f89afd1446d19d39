"""Law 60: what the processes of a run over several devices hold of its weights, here two processes of one CPU."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FULL: dict[str, Any] = {"method": "full"}
LORA: dict[str, Any] = {"method": "lora", "rank": 4}
METHODS = {"full": FULL, "lora": LORA, "dora": {**LORA, "variant": "dora"}}
CASES = {  # method, precision, gradient checkpointing
    f"{name} {precision}{' recomputed' if is_recomputed else ''}": (method, precision, is_recomputed)
    for name, method in METHODS.items()
    for precision in ("fp32", "bf16")
    for is_recomputed in (False, True)
}

# One step of two processes for every case. The first of them prints the bytes of linear weights of the layers that are
# whole in memory when the layers' backward pass begins, divided by the number of these weights.
BETWEEN = """
import json, os, sys, weakref
from pathlib import Path
import torch
from pydantic import TypeAdapter
from lab_fixtures import make_examples, small_tokenizer
from tunewise.executors.local.together import together
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import make_batch
from tunewise.lab.methods import build_method
from tunewise.lab.models.class_order import LINEAR
from tunewise.lab.models.load import inner_model, load_base
from tunewise.lab.placement import Placement
from tunewise.lab.train import loss
from tunewise.lab.train.begin import make_trainable
from tunewise.lab.train.optim import LearningRates
from tunewise.spec import Method, TrainSpec

root, folder, cases = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])

class Saved:  # by autograd, which drops it with the part of the graph that needs it
    def __init__(self, tensor):
        self.tensor = tensor

def whole_bytes(name, part):
    method, precision, is_recomputed = cases[name]
    compute = Compute("cpu", precision, Placement.join("cpu", part.rank, 2, root / name))
    base = load_base(folder, "sft", (), small_tokenizer(), False)
    built = build_method(TypeAdapter(Method).validate_python(method), "sft", 1)
    model = built.prepare(base)
    layers = inner_model(model).get_decoder().named_modules()
    linear = [m.weight for n, m in layers if isinstance(m, LINEAR) and "lora_" not in n]
    shapes, number = {tuple(w.shape) for w in linear}, sum(w.numel() for w in linear)
    shapes |= {shape[::-1] for shape in shapes}
    train = TrainSpec(gradient_checkpointing=is_recomputed)
    make_trainable((model, built), base.head_modules, train, LearningRates(1e-3, None), compute)
    packed, found = [], []

    def pack(tensor):
        saved = Saved(tensor)
        packed.append(weakref.ref(saved))
        return saved

    end = loss._Forward.end

    def begin_of_backward(forward):
        kept = [saved.tensor for of in packed if (saved := of())]
        assert kept
        storages = [tensor.untyped_storage() for tensor in kept if tuple(tensor.shape) in shapes]
        found.append(sum({storage.data_ptr(): storage.size() for storage in storages}.values()) / number)
        end(forward)

    loss._Forward.end = begin_of_backward
    batch = make_batch(make_examples((7,)), [0], 0)
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        loss.add_gradient(model, batch, batch.num_targets, compute)
    return found.pop()

def work(name, part):
    found = whole_bytes(name, part)
    if part.rank == 0:
        print(json.dumps([name, found]), flush=True)
    return 0

os._exit(max(abs(together(2, lambda part: work(name, part))) for name in cases))
"""


@pytest.fixture(scope="module")
def whole_bytes(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """What the script prints, by case."""
    tests = Path(__file__).parents[1]
    arguments = [str(tmp_path_factory.mktemp("meetings")), str(model_folder("llama")), json.dumps(CASES)]
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tests)!r})\n{BETWEEN}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_law_60_no_layer_is_whole_between_forward_and_backward_pass(case: str, whole_bytes: dict[str, float]) -> None:
    """Law 60: autocast keeps casts of fp32 weights for the backward pass, unless they are gathered in bf16.

    DoRA needs the base in fp32 for its norms, so its casts stay, as the how-to says.
    """
    if case == "dora bf16":
        assert 0 < whole_bytes[case] <= 2
    else:
        assert whole_bytes[case] == 0, "bytes for each weight of the layers"
