"""Perplexity of a tuned model, or of a base, by plain transformers and peft in float64, one example at a time.

python tests/referee/perplexity.py MODEL BASE TEST.jsonl [SEPARATOR]

MODEL is a folder of weights or an adapter (then of BASE); the rows have `prompt` and `completion`.
"""

import json
import math
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder: Path, base: str) -> torch.nn.Module:
    """The model in float64."""
    is_adapter = (folder / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(base if is_adapter else folder, dtype=torch.float64)
    if is_adapter:
        model = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).double()
    return model.eval()


@torch.no_grad()
def measure(folder: Path, base: str, test: Path, separator: str) -> dict[str, float]:
    """Perplexity = exp(sum of NLL / number of tokens of the completions, their end-of-text token among them)."""
    model, tokenizer = load(folder, base), AutoTokenizer.from_pretrained(folder)
    nll, num_tokens = 0.0, 0
    for row in map(json.loads, test.read_text(encoding="utf-8").splitlines()):
        prompt = tokenizer(row["prompt"] + separator).input_ids
        answer = [*tokenizer(row["completion"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        assert logits.dtype == torch.float64
        nll -= float(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())
        num_tokens += len(answer)
    return {"perplexity": math.exp(nll / num_tokens), "nll": nll / num_tokens, "num_tokens": num_tokens}


if __name__ == "__main__":
    model, base, test, *separator = sys.argv[1:]
    print(json.dumps(measure(Path(model), base, Path(test), separator[0] if separator else "\n")))
