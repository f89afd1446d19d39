"""What the contenders train: the same model, rows, batches and number of steps for all of them.

Models have random weights: a step costs the same whatever the weights are. The tokenizer, the data and the bundled
base are real.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

import tunewise as tw

LORA_QKV = {"method": "lora", "rank": 8, "alpha": 16, "targets": "qkv"}
LORA_ALL = {"method": "lora", "rank": 16, "alpha": 32, "targets": "all-linear"}
FULL = {"method": "full"}


@dataclass(frozen=True)
class Workload:
    """One line of work; `model` is `tiny`, `gpt2` (small, 124.7 million parameters), or a folder."""

    title: str
    model: str
    data: str  # a folder below --data
    arm: dict[str, Any]
    batch_size: int
    num_steps: int
    learning_rate: float
    task: str = "sft"
    options: dict[str, Any] = field(default_factory=dict)  # of `data`

    def study(self, model: str, data: Path) -> tw.StudySpec:
        """The study whose one trial is this work."""
        rows = {split: str(data / self.data / f"{split}.jsonl") for split in ("train", "valid", "test")}
        arms = {"arm": {**self.arm, "rates": [self.learning_rate]}}
        if self.task == "classify":
            arms["head"] = {"method": "head", "rates": [self.learning_rate]}
        train = {"max_steps": self.num_steps, "batch_size": self.batch_size, "evaluations": 1, "warmup": 0}
        if self.task == "classify":
            train["head_learning_rate"] = self.learning_rate
        return tw.StudySpec.model_validate(
            {
                "name": "bench",
                "model": model,
                "task": self.task,
                "data": {
                    **rows,
                    "limit": {"train": self.batch_size * self.num_steps, "valid": 8, "test": 8},
                    "duplicates": "keep",
                    "max_truncated": 1.0,
                    **self.options,
                },
                "arms": arms,
                "train": train,
                "looks": [1],
                "samples": {"count": 0},
                "forgetting": {"tokens": 0},
            }
        )


E2E = {"separator": " ->", "max_length": 256}
WORKLOADS = {
    "a": Workload("GPT-2 small on E2E, LoRA r=8 qkv", "gpt2", "generation/e2e_nlg", LORA_QKV, 8, 18, 1e-3, options=E2E),
    "b": Workload(
        "GPT-2 small on GSM8K, LoRA r=16 all-linear", "gpt2", "generation/gsm8k", LORA_ALL, 8, 12, 1e-3,
        options={"separator": "\n", "max_length": 512},
    ),
    "c": Workload(
        "MiniLM on TREC, LoRA r=8 all-linear", "minilm", "classification/trec6", {**LORA_ALL, "rank": 8}, 32, 30, 1e-3,
        task="classify", options={"max_length": 128},
    ),
    "c2": Workload(
        "MiniLM on tweet_emotion, LoRA r=8 all-linear", "minilm", "classification/tweet_emotion",
        {**LORA_ALL, "rank": 8}, 32, 30, 1e-3, task="classify", options={"max_length": 128},
    ),
    "d": Workload(
        "the bundled base on E2E, LoRA r=16 all-linear", "tiny", "generation/e2e_nlg", LORA_ALL, 16, 40, 3e-3,
        options=E2E,
    ),
    "e": Workload("GPT-2 small on E2E, full", "gpt2", "generation/e2e_nlg", FULL, 8, 18, 1e-4, options=E2E),
}  # fmt: skip


def save_gpt2_small(folder: Path, tokenizer_file: Path) -> Path:
    """GPT-2 small as its configuration says, random weights, with the real tokenizer."""
    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(GPT2Config(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)).save_pretrained(
            folder
        )
        end = "<|endoftext|>"
        PreTrainedTokenizerFast(
            tokenizer_file=str(tokenizer_file), eos_token=end, bos_token=end, pad_token=end
        ).save_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).n_layer == 12
    return folder
