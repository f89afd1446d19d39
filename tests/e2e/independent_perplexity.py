"""Perplexity of a tuned model by plain transformers and peft alone: nothing of tunewise is imported.

python independent_perplexity.py BEST_FOLDER BASE_FOLDER TEST.jsonl [SEPARATOR]
"""

import json
import math
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def perplexity(best: Path, base: str, test: Path, separator: str) -> float:
    is_adapter = (best / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(base if is_adapter else best, dtype=torch.float32)
    if is_adapter:
        model = PeftModel.from_pretrained(model, best)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(best)
    nll = torch.zeros((), dtype=torch.float64)
    num_tokens = 0
    for row in map(json.loads, test.read_text(encoding="utf-8").splitlines()):
        prompt = tokenizer(row["prompt"] + separator).input_ids
        answer = [*tokenizer(row["completion"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
        nll -= logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum()
        num_tokens += len(answer)
    return math.exp(float(nll) / num_tokens)


if __name__ == "__main__":
    best, base, test, *separator = sys.argv[1:]
    print(perplexity(Path(best), base, Path(test), separator[0] if separator else "\n"))
