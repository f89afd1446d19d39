"""Fine-tune a language model or a classifier, in full or with LoRA: plain torch, transformers and peft.

    python finetune_lora.py --model gpt2 --data FOLDER --method lora --rank 8 --out results/lora

FOLDER holds train.jsonl and test.jsonl. Rows with `prompt` and `completion` train a language model on the completions,
rows with `text` train it on the text, and rows with `text` and `label` train a classifier.
"""

import argparse
import json
import math
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed
from transformers.pytorch_utils import Conv1D

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IGNORED = -100  # a label that transformers leaves out of the loss
Example = dict[str, Any]  # input_ids, and labels: a token id or IGNORED for each of them, or the number of a class

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="hub id, such as gpt2, or a folder")
parser.add_argument("--data", required=True, type=Path, help="folder with train.jsonl and test.jsonl")
parser.add_argument("--method", required=True, choices=["full", "lora"])
parser.add_argument("--out", required=True, type=Path, help="folder for the model and result.json")
parser.add_argument("--targets", default="all-linear", help="all-linear, or module names: c_attn,c_proj")
parser.add_argument("--lr", type=float, help="default: 1e-4, or ten times as much for LoRA")
for name, default in {"rank": 8, "alpha": 32, "epochs": 2, "batch-size": 16, "max-length": 256, "seed": 0}.items():
    parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")


def encode(row: dict[str, Any], tokenizer: Any, classes: list[str], longest: int) -> Example:
    """The model reads prompt and completion, but only the completion and the end of text have labels."""
    if classes:
        ids = tokenizer(row["text"], truncation=True, max_length=longest).input_ids
        return {"input_ids": ids, "labels": classes.index(row["label"])}
    prompt = tokenizer(row["prompt"] + "\n").input_ids if "prompt" in row else []
    answer = tokenizer(row["completion"] if prompt else row["text"], add_special_tokens=not prompt).input_ids
    answer = [*answer, tokenizer.eos_token_id]
    return {"input_ids": (prompt + answer)[:longest], "labels": ([IGNORED] * len(prompt) + answer)[:longest]}


def batch(examples: list[Example], padding: int) -> dict[str, torch.Tensor]:
    """Examples padded on the right to the longest."""
    ids, labels = ([torch.tensor(e[name], device=DEVICE) for e in examples] for name in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(ids, True, padding),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], True),
        "labels": pad_sequence(labels, True, IGNORED) if labels[0].dim() else torch.stack(labels),
    }


def load(asked: argparse.Namespace, classes: list[str], padding: int) -> torch.nn.Module:
    """The model to train. With LoRA every weight is frozen except the adapters, and the head of a classifier."""
    set_seed(asked.seed)  # before the head and the adapters are drawn
    kind = AutoModelForSequenceClassification if classes else AutoModelForCausalLM
    of_head = {"num_labels": len(classes), "pad_token_id": padding} if classes else {}
    model = kind.from_pretrained(asked.model, dtype=torch.float32, **of_head)
    if asked.method == "lora":
        config = LoraConfig(
            task_type="SEQ_CLS" if classes else "CAUSAL_LM",
            r=asked.rank,
            lora_alpha=asked.alpha,
            target_modules=asked.targets if asked.targets == "all-linear" else asked.targets.split(","),
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2 stores W transposed
        )
        model = get_peft_model(model, config)
    return model.to(DEVICE)


def train(model: torch.nn.Module, examples: list[Example], padding: int, asked: argparse.Namespace) -> list[float]:
    """The loss of every step. AdamW; 5% warm-up, then a linear fall; gradients clipped to 1; only matrices decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = ([p for p in trained if (p.dim() >= 2) == is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=asked.lr, weight_decay=0.01)
    num_steps = math.ceil(len(examples) / asked.batch_size) * asked.epochs
    warm = round(0.05 * num_steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (step + 1) / warm if step < warm else (num_steps - step) / (num_steps - warm)
    )
    losses: list[float] = []
    model.train()
    for epoch in range(asked.epochs):
        order = list(range(len(examples)))
        random.Random(f"order {asked.seed} {epoch}").shuffle(order)  # the same for both methods with the same seed
        for start in range(0, len(order), asked.batch_size):
            loss = model(**batch([examples[i] for i in order[start : start + asked.batch_size]], padding)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) % 10 == 0 or len(losses) == num_steps:
                print(f"step {len(losses)} of {num_steps}: loss {losses[-1]:.3f}", file=sys.stderr)
    return losses


@torch.no_grad()
def test(model: torch.nn.Module, examples: list[Example], padding: int) -> dict[str, float]:
    """Loss in nats per target: a sum over examples divided by a count; and perplexity or accuracy."""
    model.eval()
    nll, num_targets, num_right = 0.0, 0, 0
    for example in examples:
        read = batch([example], padding)
        labels, logits = read.pop("labels"), model(**read).logits
        predicted, targets = (logits, labels) if labels.dim() == 1 else (logits[0, :-1], labels[0, 1:])
        nll += torch.nn.functional.cross_entropy(predicted, targets, ignore_index=IGNORED, reduction="sum").item()
        num_targets += int((targets != IGNORED).sum())
        num_right += int((predicted.argmax(-1) == targets).sum())
    nll, accuracy = nll / num_targets, num_right / num_targets
    return {"nll": nll, "accuracy": accuracy} if labels.dim() == 1 else {"nll": nll, "perplexity": math.exp(nll)}


if __name__ == "__main__":
    asked = parser.parse_args()
    asked.lr = asked.lr or (1e-4 if asked.method == "full" else 1e-3)
    files = {split: asked.data / f"{split}.jsonl" for split in ("train", "test")}
    rows = {split: [json.loads(line) for line in path.open(encoding="utf-8")] for split, path in files.items()}
    classes = sorted({row["label"] for row in rows["train"] if "label" in row})
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    data = {split: [encode(row, tokenizer, classes, asked.max_length) for row in rows[split]] for split in rows}
    model, start = load(asked, classes, padding), time.perf_counter()
    losses, seconds = train(model, data["train"], padding, asked), time.perf_counter()
    in_use = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    model.save_pretrained(asked.out)  # of LoRA: adapter_model.safetensors and adapter_config.json
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    result = {
        "method": "full" if asked.method == "full" else f"LoRA r={asked.rank}",
        "learning_rate": asked.lr,
        **test(model, data["test"], padding),
        "trainable_parameters": trainable,
        "trainable_share": trainable / sum(p.numel() for p in model.parameters()),
        "train_seconds": round(seconds - start, 1),
        "peak_memory_mib": (in_use if DEVICE == "cpu" else torch.cuda.max_memory_allocated()) >> 20,
        "bytes_on_disk": sum(path.stat().st_size for path in asked.out.glob("*.safetensors")),
    }
    print(json.dumps(result, indent=1))
    (asked.out / "result.json").write_text(json.dumps({**result, "losses": losses}), encoding="utf-8")
