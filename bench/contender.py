"""One contender does one workload in a process of its own, and writes what each step took, read and lost.

python bench/contender.py NAME WORK.json OUT.json      (called by bench/speed.py)

Seconds of a step are those from the end of the step before to its own end: data, gradient, update, log.
"""

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tunewise.lab.data.batching import Example, read_examples, step_rows
from tunewise.lab.run.story import Run
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.spec import RunSpec
from tunewise.storage.ledger import Ledger

Ends = list[tuple[float, float, int]]  # of every step: when it ended, its loss, the peak of the process until then


def tunewise(work: dict[str, Any]) -> Ends:
    """The product's own run, in this process."""
    ends: Ends = []

    def listen(event: Event) -> None:
        if isinstance(event, events.Step):
            ends.append((time.perf_counter(), event.loss, peak_bytes()))

    ledger, spec = Ledger(Path(work["study"])), RunSpec.model_validate(work["spec"])
    shutil.rmtree(ledger.run_folder(spec.run_id), ignore_errors=True)  # what the round before left
    Run(spec, ledger.begin(spec), Path(work["data"]), listen).execute()
    return ends


def trainer(work: dict[str, Any], bf16: bool, by_length: bool = False) -> Ends:
    """transformers' Trainer with peft, on the same token ids in the same order."""
    from transformers import Trainer, TrainingArguments, set_seed  # noqa: PLC0415

    set_seed(work["spec"]["seed"])
    model, pad = _model(work), _collator(work)
    ends: Ends = []

    def collator(features: list[dict[str, Any]]) -> Any:
        work["tokens"].append(sum(len(row["input_ids"]) for row in features))
        return pad(features)

    arguments = TrainingArguments(
        output_dir=work["scratch"], bf16=bf16, **_schedule(work),
        train_sampling_strategy="group_by_length" if by_length else "sequential",
    )  # fmt: skip
    rows = _rows(work)
    made = Trainer(model, arguments, train_dataset=rows, data_collator=collator, callbacks=[_Clock(ends)])
    made.train()
    return ends


def trl(work: dict[str, Any], bf16: bool) -> Ends:
    """TRL's SFTTrainer on the same token ids in the same order."""
    from datasets import Dataset  # noqa: PLC0415
    from transformers import AutoTokenizer, set_seed  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    set_seed(work["spec"]["seed"])
    ends: Ends = []
    arguments = SFTConfig(
        output_dir=work["scratch"], bf16=bf16, **_schedule(work), train_sampling_strategy="sequential",
        max_length=None, completion_only_loss=True,
    )  # fmt: skip
    rows = [
        {"input_ids": e.input_ids, "completion_mask": [int(is_trained) for is_trained in e.supervised]}
        for e in _ordered(work)
    ]
    made = SFTTrainer(
        _model(work), arguments, train_dataset=Dataset.from_list(rows), callbacks=[_Clock(ends)],
        processing_class=AutoTokenizer.from_pretrained(work["spec"]["model"]),
    )  # fmt: skip
    made.train()
    return ends


CONTENDERS: dict[str, Callable[[dict[str, Any]], Ends]] = {
    "tunewise": tunewise,
    "Trainer + peft, its defaults": lambda work: trainer(work, bf16=False),
    "Trainer + peft, bf16": lambda work: trainer(work, bf16=True),
    "Trainer + peft, bf16, grouped by length": lambda work: trainer(work, bf16=True, by_length=True),
    "TRL SFTTrainer, bf16": lambda work: trl(work, bf16=True),
}


def _schedule(work: dict[str, Any]) -> dict[str, Any]:
    train = work["spec"]["train"]
    return {
        "per_device_train_batch_size": train["batch_size"],
        "max_steps": train["max_steps"],
        "learning_rate": work["spec"]["learning_rate"],
        "weight_decay": train["weight_decay"],
        "warmup_steps": round(train["warmup"] * train["max_steps"]),
        "max_grad_norm": train["clip_norm"],
        "gradient_checkpointing": train["gradient_checkpointing"],
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }


def _ordered(work: dict[str, Any]) -> list[Example]:
    """The examples in the order in which our run trains on them; `examples`, if bench/gpu_step.py made them."""
    if "examples" in work:
        return list(work["examples"])
    train = work["spec"]["train"]
    examples = read_examples(Path(work["data"]) / "train.parquet")
    steps = step_rows(len(examples), train["batch_size"], train["max_steps"], work["spec"]["seed"])
    return [examples[row] for rows in steps for row in rows]


def _rows(work: dict[str, Any]) -> list[dict[str, Any]]:
    if work["spec"]["task"] == "classify":
        return [{"input_ids": e.input_ids, "labels": e.label} for e in _ordered(work)]
    return [
        {
            "input_ids": e.input_ids,
            "labels": [i if on else -100 for i, on in zip(e.input_ids, e.supervised, strict=True)],
        }
        for e in _ordered(work)
    ]


def _collator(work: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, DataCollatorWithPadding  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(work["spec"]["model"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    is_classified = work["spec"]["task"] == "classify"
    return DataCollatorWithPadding(tokenizer) if is_classified else DataCollatorForSeq2Seq(tokenizer)


def _model(work: dict[str, Any]) -> Any:
    """The base in fp32, with peft's adapter where the arm has one; the targets are those that our arm has.

    `model`, if bench/gpu_step.py made one.
    """
    if "model" in work:
        return work["model"]
    from peft import LoraConfig, TaskType, get_peft_model  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: PLC0415

    is_classified = work["spec"]["task"] == "classify"
    options = {"num_labels": work["num_labels"]} if is_classified else {}
    auto = AutoModelForSequenceClassification if is_classified else AutoModelForCausalLM
    model = auto.from_pretrained(work["spec"]["model"], dtype=torch.float32, **options)
    method = work["spec"]["method"]
    if method["method"] == "full":
        return model
    return get_peft_model(
        model,
        LoraConfig(
            r=method["rank"],
            lora_alpha=method["alpha"],
            target_modules=work["targets"],
            task_type=TaskType.SEQ_CLS if is_classified else TaskType.CAUSAL_LM,
        ),
    )


def _Clock(ends: Ends) -> Any:  # noqa: N802
    """A callback that notes the end of every step, and its loss once it is logged."""
    from transformers import TrainerCallback  # noqa: PLC0415

    class Clock(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            if logs and "loss" in logs:
                ends.append((time.perf_counter(), float(logs["loss"]), peak_bytes()))

    return Clock()


def main() -> None:
    """Do the work, write seconds, losses and the peak of the process."""
    name, work_file, out = sys.argv[1:]
    work = {**json.loads(Path(work_file).read_text(encoding="utf-8")), "tokens": []}
    ends = CONTENDERS[name](work)
    # the others have ours in our order
    tokens = work["tokens"] or [sum(len(e.input_ids) for e in step) for step in batched(_ordered(work), _size(work))]
    seconds = [after[0] - before[0] for before, after in zip(ends, ends[1:], strict=False)]
    found = {
        "seconds": seconds,  # from the second step on
        "tokens": tokens[1 : len(ends)],
        "losses": [loss for _, loss, _ in ends],
        "peak_bytes": ends[-1][2],
    }
    Path(out).write_text(json.dumps(found), encoding="utf-8")


def batched(rows: list[Example], size: int) -> list[list[Example]]:
    """Consecutive rows, so many at a time."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _size(work: dict[str, Any]) -> int:
    return int(work["spec"]["train"]["batch_size"])


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
