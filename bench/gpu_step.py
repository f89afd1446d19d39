"""One contender on one model, in a process of its own: a line of JSON for every arm.

python bench/gpu_step.py CASE.json      (called by bench/gpu.py, which lists the keys of a case)

Models have random weights and are built on the device, because a step costs the same whatever the weights are. All
contenders take the same rows in the same order, with a whole batch in memory at once.
"""

import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from contender import CONTENDERS, Ends, peak_bytes
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from tunewise.lab.data.batching import Example
from tunewise.lab.methods import build_method
from tunewise.lab.models.fusing import fuse
from tunewise.lab.models.load import BUNDLED, Base, load_base, load_config, load_tokenizer
from tunewise.lab.models.packing import fit_attention
from tunewise.lab.plan.arm import plan_arm
from tunewise.lab.plan.configurations import configuration
from tunewise.lab.plan.kernels import try_kernels
from tunewise.lab.plan.meta_model import small_config
from tunewise.lab.plan.setting import Kernels, PlanContext, PlannedModel, begin_training
from tunewise.lab.plan.workload import workload
from tunewise.lab.train.loop import train
from tunewise.lab.train.memory import release_memory
from tunewise.lab.train.meters import MemoryMeter, return_freed_memory
from tunewise.lab.weights.narrow import keep_narrow
from tunewise.lab.weights.quantized import bitsandbytes, quantize
from tunewise.records.plan import ArmPlan
from tunewise.spec import FullMethod, LoraMethod, TrainSpec

Case = dict[str, Any]
METHODS = {"LoRA": LoraMethod(rank=16), "QLoRA": LoraMethod(rank=16, base="nf4"), "full": FullMethod()}
RATE = 1e-5  # any value: it changes no cost
WARM_UP = 2  # steps whose time does not count
ANY_MEMORY = 2**60  # bytes: a plan looks for what fits, which is not needed here


def config_of(case: Case) -> PreTrainedConfig:
    """The known model's configuration; small, if the case is."""
    config = configuration(case["model"], "sft", False)
    return small_config(config) if case["is_small"] else config


def random_model(case: Case, dtype: torch.dtype) -> PreTrainedModel:
    """The model with random weights, the same for all contenders, which were never anywhere but on the device."""
    torch.manual_seed(0)
    with torch.device(case["device"]):
        return AutoModelForCausalLM.from_config(config_of(case), dtype=dtype)


def train_spec(case: Case) -> TrainSpec:
    """A whole batch at once; the schedule changes no cost."""
    return TrainSpec(
        max_steps=case["num_steps"],
        batch_size=case["batch_size"],
        micro_batch_tokens=case["batch_size"] * case["length"],
        gradient_checkpointing=case["recomputes"],
    )


def examples_of(case: Case) -> list[Example]:
    """Random tokens, the second half supervised. Rows of a batch have a quarter of the length to all of it, evenly."""
    draw, size, most = random.Random(0), config_of(case).vocab_size, case["length"]
    made = []
    for row in range(case["batch_size"] * case["num_steps"]):
        length = most - (row % case["batch_size"]) * (most * 3 // 4) // (case["batch_size"] - 1)
        ids = [draw.randrange(size) for _ in range(length)]
        made.append(Example(f"{row}", "", ids, [2 * place >= length for place in range(length)], 0, -1, "", ""))
    return made


def setting_of(case: Case) -> PlanContext:
    """The case, for a plan and for the loop."""
    spec = train_spec(case)
    return PlanContext(config_of(case), "sft", 0, (), spec, case["num_steps"], case["device"], "bf16", None, True)


def plan_of(case: Case, arm: str) -> ArmPlan:
    """Plan of the case from the configuration alone, made once. All steps are of one size, so one is planned."""
    stored = Path(case["checkpoint"]).parent / f"plan-{case['model'].replace('/', '-')}-{arm}.json"
    if stored.is_file():
        return ArmPlan.model_validate_json(stored.read_text(encoding="utf-8"))
    setting, method = setting_of(case), METHODS[arm]
    kernels = try_kernels(setting, method)
    batching = (kernels or Kernels(None, 0)).batching(setting.train)
    work = workload(examples_of(case)[: case["batch_size"]], setting.train, 0, batching)
    plan = plan_arm(setting, work, method, kernels, ANY_MEMORY)
    stored.write_text(plan.model_dump_json(), encoding="utf-8")
    return plan


def tunewise(case: Case, arm: str, meter: MemoryMeter) -> Ends:
    """The product's own preparation and loop, on a base stored as a run stores one whose checkpoint is bf16."""
    method, setting, device = METHODS[arm], setting_of(case), case["device"]
    model = random_model(case, torch.float32 if arm == "full" else torch.bfloat16).eval()
    if arm != "full":
        keep_narrow(model, AutoModelForCausalLM, False)
    if method.quantized:
        quantize(model, (), method.quantized, device)
    built = build_method(method, "sft", case["num_steps"])
    adapted = built.prepare(Base(model, (), ())).to(device)
    fuse(adapted)
    batching = Kernels(None, fit_attention(adapted, None, "sft")).batching(setting.train)
    loop = begin_training(PlannedModel(adapted, built, ()), setting, device)
    examples, ends, size = examples_of(case), [], case["batch_size"]
    rows = (range(start, start + size) for start in range(0, len(examples), size))
    with meter.phase("train"):
        for step in train(adapted, (list(batching.batches(examples, of_step)) for of_step in rows), loop):
            ends.append((time.perf_counter(), step.loss, peak_bytes()))
    return ends


def usual_model(case: Case, arm: str) -> Any:
    """The model as the documentation of transformers, peft and bitsandbytes prepares it for bf16."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training  # noqa: PLC0415

    model = random_model(case, torch.float32 if arm == "full" else torch.bfloat16)
    if arm == "full":
        return model
    if arm == "QLoRA":
        _pack(model)
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=case["recomputes"])
    elif case["recomputes"]:
        model.enable_input_require_grads()
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def _pack(model: PreTrainedModel) -> None:
    """Linear layers of bitsandbytes, as transformers makes them while it loads a checkpoint."""
    library, head = bitsandbytes().nn, model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and module is not head:
            sizes = (module.in_features, module.out_features, module.bias is not None, torch.bfloat16)
            packed = library.Linear4bit(*sizes, compress_statistics=False, quant_type="nf4", device="meta")
            whole = library.Params4bit(
                module.weight.data, requires_grad=False, compress_statistics=False, quant_type="nf4"
            )
            packed.weight, packed.bias = whole._quantize(module.weight.device), module.bias
            model.set_submodule(name, packed)
    model.is_loaded_in_4bit = True


def with_trainer(case: Case, arm: str, meter: MemoryMeter) -> Ends:
    """transformers' Trainer with peft."""
    return _contend("Trainer + peft, bf16", case, usual_model(case, arm), meter)


def with_trl(case: Case, arm: str, meter: MemoryMeter) -> Ends:
    """TRL's SFTTrainer on the same model."""
    return _contend("TRL SFTTrainer, bf16", case, usual_model(case, arm), meter)


def with_unsloth(case: Case, arm: str, meter: MemoryMeter) -> Ends:
    """Unsloth's model, read from the checkpoint, in TRL's SFTTrainer as its documentation has it."""
    from unsloth import FastLanguageModel  # noqa: PLC0415

    model, _ = FastLanguageModel.from_pretrained(
        case["checkpoint"], max_seq_length=case["length"], dtype=torch.bfloat16, load_in_4bit=arm == "QLoRA",
        full_finetuning=arm == "full",
    )  # fmt: skip
    if arm != "full":
        model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32, use_gradient_checkpointing=False)
    return _contend("TRL SFTTrainer, bf16", case, model, meter)


def _contend(name: str, case: Case, model: Any, meter: MemoryMeter) -> Ends:
    """A contender of speed.py with this model and these rows."""
    spec = {"task": "sft", "model": str(BUNDLED["tiny"]), "learning_rate": RATE, "seed": 0}
    with tempfile.TemporaryDirectory() as scratch, meter.phase("train"):
        return CONTENDERS[name](
            {
                "spec": {**spec, "train": train_spec(case).model_dump()}, "scratch": scratch, "tokens": [],
                "model": model, "examples": examples_of(case),
            }
        )  # fmt: skip


STEPS: dict[str, Callable[[Case, str, MemoryMeter], Ends]] = {
    "tunewise": tunewise,
    "Trainer + peft": with_trainer,
    "TRL SFTTrainer": with_trl,
    "Unsloth": with_unsloth,
}


def steps(case: Case, arm: str) -> dict[str, Any]:
    """Loss, seconds of a mean step, and bytes: at the peak of the steps, and planned."""
    meter, name = MemoryMeter(case["device"]), case["contender"]
    found: dict[str, Any] = {"planned": None}
    if name == "tunewise" and (planned := plan_of(case, arm).step):
        found["planned"] = planned.total
        print(json.dumps({"arm": arm, **found}), flush=True)  # also if the step then fails
    ends = STEPS[name](case, arm, meter)
    memory = meter.memory("train")
    seconds = mean(after[0] - before[0] for before, after in pairwise(ends[WARM_UP - 1 :]))
    return {**found, "seconds": seconds, "loss": ends[0][1], "peak": memory and memory.above_start_bytes}


def write(case: Case, arm: str) -> dict[str, Any]:
    """Write the checkpoint in bf16, with the tokenizer of the bundled base."""
    random_model(case, torch.bfloat16).save_pretrained(case["checkpoint"])
    AutoTokenizer.from_pretrained(BUNDLED["tiny"]).save_pretrained(case["checkpoint"])
    return {"file": sum(file.stat().st_size for file in Path(case["checkpoint"]).glob("*.safetensors"))}


def load(case: Case, arm: str) -> dict[str, Any]:
    """Seconds and bytes of a load, as a run loads; an arm that is none of ours: as transformers does."""
    folder, device, method = case["checkpoint"], case["device"], METHODS.get(arm)
    planned = plan_of(case, arm).loading if method else None
    host = MemoryMeter("cpu")
    card = host if device == "cpu" else MemoryMeter(device)
    begin = time.perf_counter()
    with host.phase("load"), nullcontext() if device == "cpu" else card.phase("load"):
        if method is None:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map=device)
        else:
            tokenizer = load_tokenizer(folder, load_config(folder, "sft", False), False)
            model = load_base(folder, "sft", (), tokenizer, False, narrow=arm != "full").model
            if method.quantized:
                quantize(model, (), method.quantized, device)
            model.to(device)
    seconds, memory = time.perf_counter() - begin, {"host": host.memory("load"), "peak": card.memory("load")}
    final = sum(parameter.nbytes for parameter in model.parameters())
    peaks = {name: of and of.above_start_bytes for name, of in memory.items()}
    return {"seconds": seconds, "final": final, "planned": planned, **peaks}


def main() -> None:
    """Print what was found of every arm, or the last line of its error."""
    case: Case = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    work = {"write": write, "load": load}.get(case["contender"], steps)
    for arm in case["arms"]:
        try:
            found = work(case, arm)
        except Exception as error:  # the next arm may fit where this one does not
            found = {"error": f"{type(error).__name__}: {error}".strip().splitlines()[-1]}
        print(json.dumps({"arm": arm, **found}), flush=True)
        gc.collect()
        release_memory()
        return_freed_memory()


if __name__ == "__main__":
    main()
