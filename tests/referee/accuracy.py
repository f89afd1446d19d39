"""Accuracy of a tuned classifier by plain transformers and peft in float64, one text at a time.

python tests/referee/accuracy.py MODEL BASE TEST.jsonl LABEL,LABEL,...

MODEL is a folder of weights or an adapter (then of BASE); the rows have `text` and `label`, and the classes are
numbered in the order in which they are given.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def load(folder: Path, base: str, num_labels: int) -> torch.nn.Module:
    """The model in float64, with the head that was saved beside its adapter."""
    is_adapter = (folder / "adapter_config.json").exists()
    model = AutoModelForSequenceClassification.from_pretrained(
        base if is_adapter else folder, num_labels=num_labels, dtype=torch.float64
    )
    if is_adapter:
        model = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).double()
    return model.eval()


@torch.no_grad()
def measure(folder: Path, base: str, test: Path, labels: list[str]) -> dict[str, float]:
    """Accuracy = rows whose most likely class is their label / rows; NLL is the mean over rows."""
    model, tokenizer = load(folder, base, len(labels)), AutoTokenizer.from_pretrained(folder)
    num_correct, nll, rows = 0, 0.0, [json.loads(line) for line in test.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        ids = tokenizer(row["text"], return_tensors="pt").input_ids
        log_probabilities = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)
        assert log_probabilities.dtype == torch.float64
        label = labels.index(str(row["label"]))
        num_correct += int(log_probabilities.argmax()) == label
        nll -= float(log_probabilities[label])
    return {"accuracy": num_correct / len(rows), "nll": nll / len(rows), "num_rows": len(rows)}


if __name__ == "__main__":
    model, base, test, labels = sys.argv[1:]
    print(json.dumps(measure(Path(model), base, Path(test), labels.split(","))))
