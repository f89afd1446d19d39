"""What dividing a run among two processes of a CPU costs: seconds of a step, and memory of a process beside its plan.

python bench/sharding.py --out FILE

One process and two take the same steps of the same batches, in turns, a thread each. On a CPU both share the memory's
bandwidth, and what is gathered is copied through gloo; a GPU with NCCL is another matter, and nothing is claimed of it.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import environment, publish
from transformers import AutoTokenizer, LlamaConfig

from tunewise.commands.plan import plan
from tunewise.desk.planning.devices import step_bytes
from tunewise.spec import NO_DATA, StudySpec

ROUNDS = 2
ASSETS = Path(__file__).parents[1] / "src" / "tunewise" / "assets"
LAYERS, WIDTH, INNER, VOCABULARY = 6, 512, 1408, 4096
ROWS, LENGTH, NUM_STEPS = 8, 64, 4
CONFIG = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
    "num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip
ARMS: dict[str, dict[str, object]] = {"full": {"method": "full"}, "lora": {"method": "lora", "rank": 8}}

STEPS = """
import json, os, sys, time
from contextlib import nullcontext
from pathlib import Path
import torch
from pydantic import TypeAdapter
from tunewise.executors.local.together import together
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, Example
from tunewise.lab.methods import build_method
from tunewise.lab.models.fusing import fuse
from tunewise.lab.models.load import Base, inner_model
from tunewise.lab.models.packing import fit_attention
from tunewise.lab.placement import Placement, local
from tunewise.lab.train.begin import make_trainable
from tunewise.lab.train.loop import Loop, compute_gradient, update
from tunewise.lab.train.optim import LearningRates
from tunewise.spec import Method, TrainSpec
from transformers import LlamaConfig, LlamaForCausalLM

given = json.loads(sys.argv[1])
devices = given["devices"]

def peak_above(measured):  # the largest sum of what was allocated and freed
    found, stack = [], list(measured.profiler.kineto_results.experimental_event_tree())
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag.name == "Allocation":
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
    total = peak = 0
    for _, size in sorted(found, key=lambda of: of[0]):
        total += size
        peak = max(peak, total)
    return peak

def work(part):
    torch.set_num_threads(1)
    meeting = Path(given["meeting"])
    place = Placement.join("cpu", part.rank, devices, meeting) if devices > 1 else Placement()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**given["config"])).eval()
    built = build_method(TypeAdapter(Method).validate_python(given["method"]), "sft", 9)
    compute = Compute("cpu", given["precision"], place)
    model = built.prepare(Base(model, (), ()))
    fuse(model)
    packed_length = fit_attention(model, None, "sft")  # rows are packed as in a run, and so as planned
    optimizer = make_trainable((model, built), (), TrainSpec(), LearningRates(1e-4, None), compute)
    place.shard(inner_model(model))
    loop = Loop(optimizer, [1.0] * 99, 1.0, compute, lambda model, step: None)
    rows, length = given["rows"], given["length"]
    ids = [5 + i % 90 for i in range(length)]
    examples = [Example(str(i), str(i), ids, [False] + [True] * (length - 1), 0, -1, "", "") for i in range(rows)]
    batches = list(Batching(rows * length, 0, packed_length, place).batches(examples, range(rows)))
    seconds = []
    measured = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    for step in range(given["steps"]):
        began = time.perf_counter()
        num_targets = place.total(sum(batch.num_targets for batch in batches))
        with measured if step == given["steps"] - 1 else nullcontext():
            compute_gradient(model, batches, num_targets, loop)
            update(model, step, loop)
        seconds.append(time.perf_counter() - began)
    state = [tensor for of in optimizer.state.values() for tensor in of.values()]
    stays = sum(local(tensor).nbytes for tensor in (*model.parameters(), *model.buffers(), *state))
    if part.rank == 0:
        print(json.dumps({"seconds": min(seconds[1:-1]), "peak": stays + peak_above(measured)}), flush=True)
    return 0

os._exit(abs(together(devices, work)))
"""


def plan_of(folder: Path, precision: str) -> dict[str, dict[int, int]]:
    """Planned bytes of a device, by arm and number of devices."""
    study = StudySpec.model_validate(
        {
            "name": "n", "model": str(folder), "arms": ARMS, "data": {"train": NO_DATA, "max_length": LENGTH},
            "task": "sft", "train": {"batch_size": ROWS, "micro_batch_tokens": ROWS * LENGTH},
            "machine": {"device": "cpu", "precision": precision, "threads": 1},
        }
    )  # fmt: skip
    found = plan(study, probe=False)
    return {name: {k: step_bytes(arm, found, k) for k in (1, 2)} for name, arm in found.arms.items()}


def taken(root: Path, method: dict[str, object], precision: str, devices: int, turn: int) -> dict[str, float]:
    """Seconds of a step and peak of the first process."""
    asked = {
        "devices": devices, "meeting": str(root / f"meeting-{turn}"), "config": CONFIG, "method": method,
        "precision": precision, "rows": ROWS, "length": LENGTH, "steps": NUM_STEPS,
    }  # fmt: skip
    command = [sys.executable, "-c", STEPS, json.dumps(asked)]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=threads).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


def main() -> None:
    """Take the steps, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = ["| arm | processes | seconds of a step | divided by one's | peak of a process | planned | error |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        LlamaConfig(**CONFIG, architectures=["LlamaForCausalLM"]).save_pretrained(root)
        AutoTokenizer.from_pretrained(ASSETS / "tiny").save_pretrained(root)
        turns = itertools.count()
        plans = {precision: plan_of(root, precision) for precision in ("fp32", "bf16")}
        for precision, (name, method) in itertools.product(plans, ARMS.items()):
            planned = plans[precision][name]
            rounds = [
                {devices: taken(root, method, precision, devices, next(turns)) for devices in (1, 2)}
                for _ in range(given.rounds)
            ]
            for devices in (1, 2):
                ratio = statistics.median(of[devices]["seconds"] / of[1]["seconds"] for of in rounds)
                seconds = min(of[devices]["seconds"] for of in rounds)
                peak, expected = max(of[devices]["peak"] for of in rounds), planned[devices]
                lines.append(
                    f"| {name}, {precision} | {devices} | {seconds:.2f} | {ratio:.2f} | {peak / 1e6:.0f} MB | "
                    f"{expected / 1e6:.0f} MB | {expected / peak - 1:+.1%} |"
                )
    weights = 2 * VOCABULARY * WIDTH + LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER + 2 * WIDTH) + WIDTH
    about = (
        f"A random Llama of {weights / 1e6:.0f} M weights in {LAYERS} layers; {ROWS} rows of {LENGTH} tokens in a step."
    )
    text = "\n".join(lines) + f"\n\n{about} {environment()}\n"
    print(text)
    publish(text, given.out)


if __name__ == "__main__":
    main()
